/// Frames whose fields are known: what tests expect of them was read from the hexadecimal digits, not computed.
enum Frames {
    /// TCP: 192.0.2.1:49320 > 198.51.100.7:443, SYN, options MSS 1460, NOP, window scale 7.
    /// Six bytes of padding.
    static let tcp = """
        02005e100001 02005e100002 0800
        4510 0030 1c46 4000 4006 0000 c0000201 c6336407
        c0a8 01bb 12345678 00000000 7002 faf0 abcd 0000
        020405b4 01 030307 00 00 00 00 00 00
        """
    /// UDP: 198.18.0.1:1024 > 198.18.0.2:53, 8 bytes of data, then 4 of padding.
    static let udp = """
        ffffffffffff 02005e100002 0800
        4500 0024 0001 0000 4011 3412 c6120001 c6120002
        0400 0035 0010 beef 0011223344556677 aaaaaaaa
        """
    /// IPv4 with 8 bytes of options (router alert, NOPs), ICMP echo, behind two VLAN tags: service 100 (priority 5,
    /// drop eligible), customer 200.
    static let taggedEcho = """
        010203040506 0708090a0b0c 88a8 b064 8100 00c8 0800
        47c3 0028 ffff 4000 0101 1234 0a000001 0a000002
        94040000 01010101
        0800 5678 beef 0102 00112233
        """
    /// ARP request behind one tag: who has 192.0.2.1? Tell 192.0.2.254.
    static let arp = """
        ffffffffffff 02005e1000fe 8100 200a 0806
        0001 0800 06 04 0001 02005e1000fe c00002fe 000000000000 c0000201
        """
    /// IPv6, TCP: 2001:db8::1 port 8080 > 2001:db8:0:1::2 port 80, ACK and PSH, 4 bytes of data.
    static let tcp6 = """
        02005e100001 02005e100002 86dd
        6ab12345 0018 06 3f 20010db8000000000000000000000001 20010db8000000010000000000000002
        1f90 0050 00000001 80000000 5018 0200 1111 0000 deadbeef
        """
    /// IPv6 with hop-by-hop options, routing header (type 4, no segments), destination options and AH before UDP:
    /// fe80::1 > ff02::2, port 546 > 547.
    static let chained = """
        333300000002 02005e100002 86dd
        60000000 0048 00 01 fe800000000000000000000000000001 ff020000000000000000000000000002
        2b 00 050200000100
        3c 00 0400000000 00
        33 01 010c000000000000000000000000
        11 04 0000 00000001 00000002 aabbccddeeff001122334455
        0222 0223 0010 0000 0102030405060708
        """
    /// IPv6, the first fragment of a UDP datagram of 1,416 bytes behind a fragment header, identification 0x0badcafe.
    static let firstFragment6 = """
        02005e100001 02005e100002 86dd
        60000000 0018 2c 40 20010db8000000000000000000000001 20010db8000000000000000000000002
        11 00 0001 0badcafe
        1234 5678 0588 4321 0001020304050607
        """
    /// The same datagram's later fragment, at byte 1,400, the last.
    static let laterFragment6 = """
        02005e100001 02005e100002 86dd
        60000000 0018 2c 40 20010db8000000000000000000000001 20010db8000000000000000000000002
        11 00 0578 0badcafe
        00010203040506070001020304050607
        """
    /// IPv4, a later fragment of a TCP segment at byte 1,480, more to come.
    static let laterFragment = """
        02005e100001 02005e100002 0800
        4500 001c 1c46 20b9 4006 0000 c0000201 c6336407 0011223344556677
        """
    /// VXLAN, VNI 0x123456, in UDP over IPv4: the inner frame is `arp` without its tag.
    static let vxlan = """
        02005e100001 02005e100002 0800
        4500 004e 0000 4000 4011 0000 c0000201 c0000202
        c123 12b5 003a 0000
        08000000 12345600
        ffffffffffff 02005e1000fe 0806
        0001 0800 06 04 0001 02005e1000fe c00002fe 000000000000 c0000201
        """
    /// Geneve, VNI 0xabcdef, one option of 8 bytes with 4 of data, critical, in UDP over IPv6.
    static let geneve = """
        02005e100001 02005e100002 86dd
        60000000 0018 11 40 20010db8000000000000000000000001 20010db8000000000000000000000002
        d903 17c1 0018 1357
        0240 6558 abcdef00
        0102 83 01 00000007
        """

    static let all = [
        "tcp": tcp, "udp": udp, "taggedEcho": taggedEcho, "arp": arp, "tcp6": tcp6, "chained": chained,
        "firstFragment6": firstFragment6, "laterFragment6": laterFragment6, "laterFragment": laterFragment,
        "vxlan": vxlan, "geneve": geneve,
    ]
}
