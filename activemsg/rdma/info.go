package rdma

import (
	"encoding/binary"
	"fmt"

	"github.com/sockemu/sockemu/activemsg"
	"github.com/sockemu/sockemu/activemsg/verbs"
)

// infoLen is the length of what two ends tell each other of their queue pairs. All numbers are little-endian:
//
//	 0  [4]  magic     "SkRD"
//	 4  u8   version   1
//	 5  u8   link      1 InfiniBand, 2 Ethernet, 3 iWARP
//	 6  u16  mtu       of the port, in bytes: 256, 512, 1024, 2048 or 4096
//	 8  u32  qp        number of the queue pair, 24 bits
//	12  u32  psn       number of the first packet, 24 bits
//	16  u16  lid       InfiniBand's address of the port; for iWARP the TCP port of the end that is awaited; else 0
//	18  u16  slots     receives posted
//	20  u32  payload   most bytes of a segment after its header
//	24  [16] gid       address of the port; for iWARP the IP address
const infoLen = 40

const (
	infoMagic   = "SkRD"
	infoVersion = 1
	maxPayload  = 1 << 24
	minPayload  = 64
	max24       = 1<<24 - 1
	linkIWARP   = verbs.LinkLayer(3)
)

func linkText(l verbs.LinkLayer) string {
	if l == linkIWARP {
		return "iWARP"
	}
	return l.String()
}

type info struct {
	link    verbs.LinkLayer
	mtu     int
	qp, psn uint32
	lid     uint16
	slots   int
	payload int
	gid     verbs.GID
}

func (i *info) put() []byte {
	b := make([]byte, infoLen)
	copy(b, infoMagic)
	b[4], b[5] = infoVersion, byte(i.link)
	binary.LittleEndian.PutUint16(b[6:], uint16(i.mtu))
	binary.LittleEndian.PutUint32(b[8:], i.qp)
	binary.LittleEndian.PutUint32(b[12:], i.psn)
	binary.LittleEndian.PutUint16(b[16:], i.lid)
	binary.LittleEndian.PutUint16(b[18:], uint16(i.slots))
	binary.LittleEndian.PutUint32(b[20:], uint32(i.payload))
	copy(b[24:], i.gid[:])
	return b
}

func (i *info) parse(b []byte) error {
	switch {
	case len(b) < 5 || string(b[:4]) != infoMagic:
		return fmt.Errorf("%d bytes that describe no queue pair", len(b))
	case b[4] != infoVersion:
		return fmt.Errorf("a queue pair of version %d, this is %d", b[4], infoVersion)
	case len(b) != infoLen:
		return fmt.Errorf("a queue pair described by %d bytes", len(b))
	}
	*i = info{
		link: verbs.LinkLayer(b[5]), mtu: int(binary.LittleEndian.Uint16(b[6:])),
		qp: binary.LittleEndian.Uint32(b[8:]), psn: binary.LittleEndian.Uint32(b[12:]),
		lid: binary.LittleEndian.Uint16(b[16:]), slots: int(binary.LittleEndian.Uint16(b[18:])),
		payload: int(min(binary.LittleEndian.Uint32(b[20:]), maxPayload+1)), gid: verbs.GID(b[24:]),
	}
	switch {
	case i.link != verbs.LinkInfiniBand && i.link != verbs.LinkEthernet && i.link != linkIWARP:
		return fmt.Errorf("unknown link layer %d", i.link)
	case i.mtu < 256 || i.mtu > 4096 || i.mtu&(i.mtu-1) != 0:
		return fmt.Errorf("path MTU %d", i.mtu)
	case i.qp == 0 || i.qp > max24 || i.psn > max24:
		return fmt.Errorf("queue pair %#x, packet number %#x", i.qp, i.psn)
	case i.slots == 0 || i.payload < minPayload || i.payload > maxPayload:
		return fmt.Errorf("%d slots of %d bytes", i.slots, i.payload)
	case i.link != verbs.LinkInfiniBand && i.gid == (verbs.GID{}), i.link == verbs.LinkInfiniBand && i.lid == 0:
		return fmt.Errorf("a queue pair without address")
	}
	return nil
}

// PeerGID returns the address that Conn.Local of a peer names: who knows where the peer is can compare before connecting.
func PeerGID(peer []byte) (verbs.GID, error) {
	var i info
	if err := i.parse(peer); err != nil {
		return verbs.GID{}, err
	}
	return i.gid, nil
}

// slotLen is the memory of a slot: header and payload, at whole cache lines.
func slotLen(payload int) int { return (activemsg.HeaderLen + payload + 63) &^ 63 }
