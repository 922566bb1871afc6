"""Pod resources v1 messages, made from podresources.proto by tools/generate_grpc.py: do not edit."""

import base64
import zlib

from google.protobuf import descriptor_pool
from google.protobuf.internal import builder

_SERIALISED = zlib.decompress(
    base64.b85decode(
        'c-oCrYfHjV7*1!VuZH$kW@;2Cx=^54e;_jmAtRz72$Hp(Vla2s&J?T<{qVkY&MvmxjK1x>m*;uj+hCuoLtC|47Sm}<r(;8-'
        'yk#@pp`48z@o3r(a~Y<`ZL$URj%hMYb=7B+-'
        'i8sk^le1BOFp2H?B+JJIK@3!3J9vH9p$iaveq28n_XtPs$o&*!uMebmNa`bFmzr`i!cRuAv>f)=1i)Jm$v#Vt?#+WCTv_8+`VCXOjj4GaaW+}0'
        'G36ugK4#ava+OzCXfzPE@=`xmLVr0EOkglcIq&X>prNoa9h==s6&{^Ic&rr=F3PW%6Nog^o>QxM2J@)KSPQ~09x289yGA>tARh@pMY`e3`Jy!>'
        'HiH;nHgec{tzFaG-'
        'JY5DEN5;cVdSkgd}df`z2<OK+a`0Guf-$kZIrU0$a~|VMK*;Orsc6*zoA|5Wuf+x`O$CQ5-`t`o=me%A*Qbswfk#@B5u=VI&pEh2MfN-'
        'MjF}m6NX&V06H8ajAn{$jC3OOOQExUTY*f{S_k%_~h+h(uv}>O#S1wYdiA;rub)|2z;!`(BxaG)f0Uo!gJR9*PMO>g2`!R'
    )
)

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(_SERIALISED)
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "sampan.node.devices.podresources_pb2", globals())
