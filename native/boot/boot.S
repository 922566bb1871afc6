/* The first sectors of a disk that a PC's BIOS boots: loads a kernel and its initial file system into memory, then enters the
 * kernel as the PVH ABI says (Xen's docs/misc/pvh.pandoc). What goes where was settled when the disk was made
 * (sampan/image/bootdisk.py), in a table behind this code:
 *
 *     0x7c00  this code, at most eight sectors
 *     0x8c00  entry point; then (first sector, sectors, address) …, ended by one with no sectors
 *     0x9000  struct hvm_start_info, its module list and command line; its memory map is asked of the BIOS
 *
 * Addresses are constants of the assembler, so nothing has to be linked.
 */
#define AT(label) (label - start + 0x7c00)
#define TABLE 0x8c00
#define INFO 0x9000
#define MAP 0x9800
#define MAP_ENTRIES (INFO + 48)
#define BUFFER 0x10000
#define PIECE 64 /* sectors at once */

    .code16
    .globl start
start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp
    sti
    ljmp $0, $AT(here)
here:
    mov %dl, AT(drive)
    call read
    jmp further

/* Read what `packet` says; does not return when the disk does not answer. */
read:
    mov $0x42, %ah /* INT 13h extensions */
    mov AT(drive), %dl
    mov $AT(packet), %si
    int $0x13
    jc failed
    ret
failed:
    mov $AT(sorry), %si
next_letter:
    lodsb
    test %al, %al
    jz stuck
    mov $0x0e, %ah
    xor %bx, %bx
    int $0x10
    jmp next_letter
stuck:
    hlt
    jmp stuck
sorry:
    .asciz "sampan: the disk cannot be read\r\n"
drive:
    .byte 0
    .balign 4
packet:
    .byte 16, 0
packet_count:
    .word 13
    .word 0x7e00
packet_segment:
    .word 0
packet_sector:
    .long 1, 0

    .org 510
    .word 0xaa55

further:
    /* The memory map: INT 15h, E820h; entries are the ABI's but for their last four bytes. */
    xor %ebx, %ebx
    mov $MAP, %di
next_range:
    mov $0xe820, %eax
    mov $0x534d4150, %edx
    mov $20, %ecx
    int $0x15
    jc mapped
    cmp $0x534d4150, %eax
    jne mapped
    movl $0, 20(%di)
    add $24, %di
    incl MAP_ENTRIES
    test %ebx, %ebx
    jnz next_range
mapped:
    movw $0, AT(packet) + 4
    movw $(BUFFER >> 4), AT(packet_segment)
    mov $(TABLE + 4), %bp
next_segment:
    mov 4(%bp), %eax
    test %eax, %eax
    jz loaded
    cmp $PIECE, %eax
    jbe last_piece
    mov $PIECE, %eax
last_piece:
    mov %ax, AT(packet_count)
    mov 0(%bp), %ecx
    mov %ecx, AT(packet_sector)
    add %eax, 0(%bp)
    sub %eax, 4(%bp)
    push %ax
    call read
    pop %ax
    movzwl %ax, %eax
    /* Above the first megabyte by the BIOS: INT 15h, 87h, with a descriptor for each end. */
    mov 8(%bp), %ebx
    mov %bx, AT(to) + 2
    mov %ebx, %edx
    shr $16, %edx
    mov %dl, AT(to) + 4
    mov %dh, AT(to) + 7
    mov %eax, %ecx
    shl $9, %eax
    add %eax, 8(%bp)
    shl $8, %ecx /* words */
    mov $AT(descriptors), %si
    mov $0x87, %ah
    push %bp
    int $0x15
    pop %bp
    jc failed
    cmpl $0, 4(%bp)
    jne next_segment
    add $12, %bp
    jmp next_segment
loaded:
    cli
    in $0x92, %al /* A20, should the BIOS have left it off */
    or $2, %al
    and $0xfe, %al
    out %al, $0x92
    lgdtl AT(table)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $AT(protected)

    .code32
protected:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $INFO, %ebx
    mov TABLE, %eax
    jmp *%eax

    .balign 8
descriptors:
    .quad 0, 0
    .word 0xffff, BUFFER & 0xffff
    .byte BUFFER >> 16, 0x93, 0, 0
to:
    .word 0xffff, 0
    .byte 0, 0x93, 0, 0
    .quad 0, 0
flat:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
table:
    .word 23
    .long AT(flat)
