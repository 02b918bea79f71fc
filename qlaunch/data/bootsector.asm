; The smallest guest there is: proof that a machine boots, what it was given, and where its picture goes.
;
; Build:  contrib/bootsector/build      (nasm -f bin; bootsector.bin beside this file is its checked-in result)
; Run:    qemu-system-x86_64 -drive file=bootsector.bin,format=raw,if=none,id=d
;                            -device virtio-blk-pci,drive=d,lcyls=1,lheads=16,lsecs=63 -serial stdio
;                            -fw_cfg name=opt/org.qlaunch/name,string=demo
;                            -fw_cfg name=opt/org.qlaunch/seconds,string=10
;
; The lcyls option (ide-hd and virtio-blk-pci have it) is for this small a file: SeaBIOS reads the boot sector by
; cylinder and finds none on a disk below one cylinder, 516096 bytes. A sparse copy of that size needs no option.
;
; Each line goes to the serial port (0x3f8) and then to the screen (BIOS teletype, two PCI devices a row):
;       qlaunch: demo cpus=2 memory=512M
;       pci 00:00.0 8086:29c0 class 0600
;       qlaunch: done
; Then it waits for a key or `seconds` (3 when not given) and powers off through ACPI PM1a_CNT. 0 seconds means
; for ever, keys and the power button ignored: the guest that does not listen to system_powerdown.
;
; The screen is written by int 10h, and never at 0xb8000 directly: text memory keeps what is stored in it even when
; no video BIOS has set the card up, and text nobody can see must not look like a picture.

bits 16
cpu 386
org 0x7c00

SECTORS         equ 3

FW_SELECT       equ 0x510
FW_DATA         equ 0x511
FW_RAM_SIZE     equ 0x03
FW_CPUS         equ 0x05
FW_DIRECTORY    equ 0x19
FW_NAME_LENGTH  equ 56

COM1            equ 0x3f8
COM1_LSR        equ COM1 + 5
LSR_THRE        equ 0x20
PM1A_CNT        equ 0x604
S5_ENABLE       equ 0x2000              ; SLP_EN, SLP_TYP 0 (S5 of SeaBIOS's q35 and pc alike)
BDA_TICKS       equ 0x46c
NAME_MAX        equ 40                  ; the whole line stays below 80 columns

; ---------------------------------------------------------------- first sector: load the rest

start:
        jmp     0:.here
.here:
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7c00
        cld
        sti
        mov     si, packet
        mov     ah, 0x42                ; by LBA: CHS depends on a geometry that so small a disk may not have
        int     0x13
        jnc     main
        mov     si, read_failed
.complain:
        lodsb
        test    al, al
        jz      forever
        mov     ah, 0x0e
        mov     bx, 7
        int     0x10
        jmp     .complain

packet:
        db      16, 0
        dw      SECTORS - 1
        dw      0x7e00, 0               ; offset, segment
        dq      1                       ; the sector after this one

read_failed:
        db      "qlaunch: cannot read the disk", 13, 10, 0

; ---------------------------------------------------------------- fw_cfg

; AX: key. The next bytes come from FW_DATA.
fw_select:
        mov     dx, FW_SELECT
        out     dx, ax
        inc     dx                      ; FW_DATA
        ret

; SI: zero-terminated file name. CX = its size, and it is selected; 0 when there is none. Keeps DI.
fw_file:
        push    di
        mov     ax, FW_DIRECTORY
        call    fw_select
        call    fw_be32
        mov     bp, ax                  ; files left
.next:
        test    bp, bp
        jz      .absent
        dec     bp
        call    fw_be32
        mov     [file_size], ax
        call    fw_be32                 ; key in the high half, reserved in the low
        shr     eax, 16
        mov     [file_key], ax
        mov     di, file_name
        mov     cx, FW_NAME_LENGTH
.copy:
        in      al, dx
        stosb
        loop    .copy
        push    si
        mov     di, file_name
.compare:
        lodsb
        cmp     al, [di]
        jne     .differs
        inc     di
        test    al, al
        jnz     .compare
        pop     si
        mov     ax, [file_key]
        call    fw_select
        mov     cx, [file_size]
        pop     di
        ret
.differs:
        pop     si
        jmp     .next
.absent:
        xor     cx, cx
        pop     di
        ret

fw_be32:
        mov     cx, 4
.more:
        shl     eax, 8
        in      al, dx
        loop    .more
        ret

; AX: key of a little-endian number of at most 64 bits. EAX = low half, EBX = high half.
fw_number:
        call    fw_select
        call    .half
        mov     ebx, eax
        call    .half
        xchg    eax, ebx
        ret
.half:
        mov     cx, 4
.more:
        in      al, dx
        ror     eax, 8
        loop    .more
        ret

; ---------------------------------------------------------------- text into the line buffer at DI

; SI: zero-terminated text.
put_text:
        lodsb
        test    al, al
        jz      .end
        stosb
        jmp     put_text
.end:
        ret

; EAX: number, in decimal.
put_decimal:
        mov     ebx, 10
        xor     cx, cx
.divide:
        xor     edx, edx
        div     ebx
        push    dx
        inc     cx
        test    eax, eax
        jnz     .divide
.write:
        pop     ax
        add     al, '0'
        stosb
        loop    .write
        ret

; EAX: number, CX: how many hexadecimal digits of its low end.
put_hex:
        mov     ebx, eax
.digit:
        mov     bp, cx
        dec     cx
        shl     cx, 2
        mov     eax, ebx
        shr     eax, cl
        and     al, 15
        cmp     al, 10
        sbb     al, 0x69
        das
        or      al, 0x20                ; lower case; digits have the bit already
        stosb
        mov     cx, bp
        loop    .digit
        ret

; The buffer goes out as one line of the serial port, then to the screen without an end of line.
; Whole lines, not characters: firmware that shows int 10h on the serial port too would mix the two.
flush:
        mov     byte [di], 0
        mov     si, line
.serial:
        lodsb
        test    al, al
        jz      .serial_end
        call    serial_put
        jmp     .serial
.serial_end:
        mov     al, 13
        call    serial_put
        mov     al, 10
        call    serial_put
        mov     si, line
screen_text:
        lodsb
        test    al, al
        jz      .end
        call    screen_put
        jmp     screen_text
.end:
        mov     di, line
        ret

screen_newline:
        mov     si, newline
        jmp     screen_text

screen_put:
        cmp     byte [screen], 0
        je      .off
        mov     ah, 0x0e
        mov     bx, 7
        int     0x10
.off:
        ret

times 510 - ($ - $$) db 0
        dw      0xaa55

; ---------------------------------------------------------------- second sector and on

; An absent port reads 0xff, which looks ready; one that never gets ready is waited for once only.
serial_put:
        cmp     byte [serial], 0
        je      .off
        push    ax
        mov     dx, COM1_LSR
        xor     cx, cx                  ; 65536 polls
.wait:
        in      al, dx
        test    al, LSR_THRE
        loopz   .wait
        pop     ax
        jz      .dead
        mov     dx, COM1
        out     dx, al
.off:
        ret
.dead:
        mov     byte [serial], 0
        ret

main:
        mov     si, uart_setup          ; 115200 8N1, no interrupts
.uart:
        lodsw
        movzx   dx, ah
        add     dx, COM1
        out     dx, al
        cmp     si, uart_setup_end
        jb      .uart

        ; int 10h still in the BIOS segment: either no video BIOS, or firmware that shows the screen on the serial
        ; port (-nographic), late and in between our own lines. The serial line is worth more then.
        cmp     word [0x10 * 4 + 2], 0xf000
        je      .banner
        inc     byte [screen]
        mov     ax, 3
        int     0x10

.banner:
        mov     di, line
        mov     si, hello
        call    put_text
        mov     [name_at], di
        mov     si, name_file
        call    fw_file
        jcxz    .guest
        cmp     cx, NAME_MAX
        jbe     .name
        mov     cx, NAME_MAX
.name:
        in      al, dx
        cmp     al, ' '
        jb      .named                  ; a file ends in a line feed, a string in nothing
        stosb
        loop    .name
.named:
        cmp     di, [name_at]
        jne     .counts
.guest:
        mov     si, guest
        call    put_text
.counts:
        mov     si, cpus
        call    put_text
        mov     ax, FW_CPUS
        call    fw_number
        movzx   eax, ax
        call    put_decimal
        mov     si, memory
        call    put_text
        mov     ax, FW_RAM_SIZE
        call    fw_number
        shrd    eax, ebx, 20
        call    put_decimal
        mov     al, 'M'
        stosb
        call    flush
        call    screen_newline

; ---------------------------------------------------------------- PCI, configuration mechanism #1

        mov     dword [pci], 0x80000000
.function:
        xor     al, al
        call    pci_read
        cmp     ax, 0xffff
        je      .empty
        push    eax
        mov     si, pci_text
        call    put_text
        movzx   eax, byte [pci + 2]
        mov     cl, 2
        call    put_hex_and_mark
        db      ':'
        movzx   eax, byte [pci + 1]
        shr     al, 3
        mov     cl, 2
        call    put_hex_and_mark
        db      '.'
        mov     al, [pci + 1]
        and     al, 7
        mov     cl, 1
        call    put_hex_and_mark
        db      ' '
        pop     eax
        push    eax
        mov     cl, 4
        call    put_hex_and_mark
        db      ':'
        pop     eax
        shr     eax, 16
        mov     cl, 4
        call    put_hex_and_mark
        db      ' '
        mov     si, class_text
        call    put_text
        mov     al, 8
        call    pci_read
        shr     eax, 16
        mov     cx, 4
        call    put_hex
        call    flush
        mov     si, gap
        xor     byte [second_column], 1
        jnz     .column
        mov     si, newline
.column:
        call    screen_text
        test    byte [pci + 1], 7
        jnz     .next
        mov     al, 12
        call    pci_read
        test    eax, 0x00800000         ; multifunction?
        jnz     .next
.one_only:
        or      byte [pci + 1], 7       ; on to the next device
        jmp     .next
.empty:
        test    byte [pci + 1], 7
        jz      .one_only
.next:
        inc     word [pci + 1]
        jnz     .function

        cmp     byte [second_column], 0
        je      .all
        call    screen_newline
.all:
        mov     si, done
        call    put_text
        call    flush
        call    screen_newline

; ---------------------------------------------------------------- wait, power off

        mov     si, seconds_file
        call    fw_file
        mov     ebx, 3
        jcxz    .have_seconds
        xor     ebx, ebx
.digit:
        in      al, dx
        sub     al, '0'
        cmp     al, 9
        ja      .have_seconds
        movzx   eax, al
        imul    ebx, ebx, 10
        add     ebx, eax
        loop    .digit
.have_seconds:
        test    ebx, ebx
        jz      forever
        imul    ebx, ebx, 18            ; ticks are 18.2 a second
.wait:
        mov     ah, 1
        push    ebx
        int     0x16
        pop     ebx
        jnz     .power_off
        mov     ax, [BDA_TICKS]
        cmp     ax, [last_tick]
        mov     [last_tick], ax
        je      .sleep
        dec     ebx
        jz      .power_off
.sleep:
        hlt
        jmp     .wait
.power_off:
        mov     dx, PM1A_CNT
        mov     ax, S5_ENABLE
        out     dx, ax
forever:
        sti
        hlt
        jmp     forever

; ---------------------------------------------------------------- helpers of these sectors

; EAX: number, CL: digits; the byte after the call is printed after them.
put_hex_and_mark:
        movzx   cx, cl
        call    put_hex
        pop     si
        movsb
        jmp     si

; AL: register of the function in [pci]. EAX = its value.
pci_read:
        mov     [pci], al
        mov     eax, [pci]
        mov     dx, 0xcf8
        out     dx, eax
        mov     dl, 0xfc
        in      eax, dx
        ret

uart_setup:                             ; value, register
        db      0x00, 1,  0x80, 3,  0x01, 0,  0x00, 1,  0x03, 3,  0x03, 4
uart_setup_end:

hello:          db "qlaunch: ", 0
guest:          db "guest", 0
cpus:           db " cpus=", 0
memory:         db " memory=", 0
pci_text:       db "pci ", 0
class_text:     db "class ", 0
gap:            db "        ", 0        ; 32 characters a device, 40 a column
done:           db "qlaunch: done", 0
newline:        db 13, 10, 0
name_file:      db "opt/org.qlaunch/name", 0
seconds_file:   db "opt/org.qlaunch/seconds", 0

screen:         db 0
serial:         db 1
second_column:  db 0

times SECTORS * 512 - ($ - $$) db 0

; ---------------------------------------------------------------- memory behind the image

absolute 0x7c00 + SECTORS * 512
pci:            resd 1
last_tick:      resw 1
name_at:        resw 1
file_size:      resw 1
file_key:       resw 1
file_name:      resb FW_NAME_LENGTH
line:           resb 128
