"""Device plugin v1beta1 messages, made from plugin.proto by tools/generate_grpc.py: do not edit."""

import base64
import zlib

from google.protobuf import descriptor_pool
from google.protobuf.internal import builder

_SERIALISED = zlib.decompress(
    base64.b85decode(
        'c-oa#ZBNrs6lNP^+u2}nC%6?ga3R5{3>b+)5@QybiUC|e;}=bHSua~-cW-'
        'U)mViIUU+6#Z?)GI(>E`^_o|or5=cVTqHeAxT3EN}bpnC=#njPxy+18+IvbybX!BK8_a7_g{z&Xga`nI^m-=T7%EZfTNlPyfnT%-'
        'ZA9jd#6I6`;m&w=Ssqng@CJ<X$MfV))aQh!4oDb|T)@eUa|>SRbvi(Ff@njYEWJ1Ae$uIUQuTuKz`3RH&NkUFlkR(J)p40*~7o1081uL4?yMTf'
        'e4;B=_YNS{_SO1uj>?(wV6OF^;msP5-'
        'ePsjlu!Gkjyxyg*LM09$W)U~CUq7BIT#gPOu5~du3!RN5xJt2Vf>50#C2^M;kSfb~%+=0B{Hn({9RuL>VRzslAzT%YKaJ&zt=({A49knP3zY=;'
        '~d^vAkNDW?teDEBhkimOUZ9DX8)RniK31YHwT`N%Z)6z}D!!F=;s3kafg}^tUwSy)$!yX2B9{_a%7c~M>7*Ku@QVvlkBjI1LHG>&ihe|j;x|ho'
        '7iJu610&D$&D|C}}tbq~Lr<ML8lp|y4ns?sNWU&eBi81|Q_z0C~mYy_7b9crx{d&HF?OE*53KU}L;Wm_gLmHIh^_2Q=-'
        'X|7wAC1Z+UGk`0!SdM7XZmJZb?`J2eo6kMp*B&Aj$xj%;gq3@d(>Ofyv2lbD+gks&j(C+15j)%h2G~QG1?w~<r!sAiGAf)HtonEFA~PMAi-'
        'K0Ssu<nq&fET`0PNjW0-mnGpmr$80qBH3#&bc!Z?c}WPZ?Ff59w5c1Wy&w>t~R>7$g^kWGn4`iBp$K_QHWN-'
        '(cBsItZ_$a>XTgQam}Z6bG?2Pa3f$K_|HMCm}}P-5tuS>B$@<1>Ir4gUj64xUY&zUjKE+-j{i-a*N`5su0dy@Y&lGf*`wVC;-'
        '&<9>UGY_9P;1EuI4kj-6tPesysi#co456K*ALMeJm?)g6s-'
        ';*v5p4(3$s>md)1+*19PhO7N_H?5lkYt(<W;Ig0*aFaM37Qb%8?4;B8E7*aKk)!*c$!Ioe!ZanL=OJ~(c-q0'
    )
)

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(_SERIALISED)
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "sampan.node.devices.plugin_pb2", globals())
