"""etcd v3 messages, made from etcd.proto by tools/generate_grpc.py: do not edit."""

import base64
import zlib

from google.protobuf import descriptor_pool
from google.protobuf.internal import builder

_SERIALISED = zlib.decompress(
    base64.b85decode(
        'c-oy-TXWk)6pn1ivW_otme86@hp;nDJp;Hjl!4&|a?vy$LQ@>K<;`s5O`?e`3GK?oyz{^e@B9z`2ao&%eh5dqD_;_Yw0^Oyv*+@i?_5@JSFmx+'
        '!UsY|34g$)H|oVnBqOq^4|?jLmmSbEsC~z$FIbRrQit*-pLVQmtJ@%VVZ%!}lYE%)i7)&p?3D1JOtzpgjz)87SxGm*p72BoDoW6V^-'
        '1Qnv!1!5e_62ZPIxHEXHb#Tn5!_Y9ooBwsi*Yx?*KK)eJEW{RP_4Jdj<Nl1U>;fMqESGF5jw6x51gmu%Z0y`JlZ<0ICP>kvnkP7JUM(J{NHm3V'
        'z7hh$jS(y&x5mCqsXvQmBwkaK?OmszoIwYC~<AANq#{jXn#{d7uBBav_(=Mi)tTIOL&r(a87<{IM?$zl$C#c^w2#d=~h>veSTfY?RhAPv}+*qc'
        'E6uYD$!0j?z$SnUl%r?-n!-9GxF|2-'
        'ORfqk>f5`LKYxD`a#rg^57C<=YC=fXW!9DwkT8ngXN~p<RGysVwAW)<lXE`UuDY54hxS!X*9M0>|hc$K)$$Ci-Ql6ivDx6s5Zm<#3HWf_iQlr_'
        '%J}y#l*=HfZI-'
        'R&F&?*iBg7pdS^OUr+IHZO;MQxS<1pybzer*U(DL+fqW?Hz#C@xV8sbQ|UMQPYLY(2rUwh992=C2GR^^x4@Ut&7XaxpIJ(loO4ajYgrDIeqP10'
        'sp9fBK_1_^zK_<;(VZ(BsjB7lTWBt$b8rX!@O<|O$Gi^q<G#B)aQkhG)Sz<Yo}9Ex*l^C%<H1mCmFdHohZ#!yh1)-'
        'Qa{N@Uihbn+UEu!s{`jC>+G{~WGcZg;1VjI{00zH=d9!{Dwx>NJx7pmhdox4iQ?Nzqd0gZ}_I}||=B<tDXUq>$HE6f0)88zpD`cy00Gu`jkdL^'
        'Ywi>Q?C+{g?VBGs3M~LG~*i;F768Xw`THJS5z5(Nlsqj4(=uq@AkVV6l)1VQMmrQyW`>MfScSGNSmcUZWf~zpUg{q1YM1GdA^D*8vdL`4JprHc'
        'hp}v9EthtrMU@uw^*OB5RZ_KxvZo7YR!J81PmluJ*%6#M(o61cC9hqH@Djo|xTv;PEsx{Jqwx_FdWm3u8(A2tkz=Ro8XNewtiFKjMvzu9T>Z*Y'
        '{H+>|~FW{}+R9@g;?2CEn@V*JzSg%4AAZ9|miV~fMLw|&=WwX^e!YfKfmpn9{u@EPc$yD@b+q#ttRu8i9b)~|bR@DdH=l=oiGS&S'
    )
)

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(_SERIALISED)
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "sampan.store.etcd_pb2", globals())
