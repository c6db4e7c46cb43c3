package protocol

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func sound() Packet {
	return Packet{
		State: Up, Multiplier: 3, Mine: 7, Yours: 9, Independent: true,
		DesiredMinTx: 100 * time.Millisecond, RequiredMinRx: 300 * time.Millisecond,
	}
}

// TestParseDiscards: each rule of RFC 5880 section 6.8.6 that needs no session, in the RFC's words.
func TestParseDiscards(t *testing.T) {
	for _, c := range []struct {
		clause string
		spoil  func(data []byte) []byte
		want   error
	}{
		{"if the version number is not correct (1), the packet MUST be discarded", func(d []byte) []byte { d[0] = 2<<5 | d[0]&0x1f; return d }, ErrVersion},
		{"if the Length field is less than the minimum (24 without A)", func(d []byte) []byte { d[3] = 23; return d }, ErrLength},
		{"(26 if the A bit is set)", func(d []byte) []byte { d[1] |= flagAuth; d[3] = 25; return append(d, 0, 0) }, ErrLength},
		{"if the Length field is greater than the payload", func(d []byte) []byte { d[3] = 25; return d }, ErrLength},
		{"the payload is shorter than a packet", func(d []byte) []byte { return d[:23] }, ErrLength},
		{"there is no payload", func([]byte) []byte { return nil }, ErrLength},
		{"if the Detect Mult field is zero", func(d []byte) []byte { d[2] = 0; return d }, ErrMultiplier},
		{"if the Multipoint (M) bit is nonzero", func(d []byte) []byte { d[1] |= flagMultipoint; return d }, ErrMultipoint},
		{"if the My Discriminator field is zero", func(d []byte) []byte { binary.BigEndian.PutUint32(d[4:], 0); return d }, ErrDiscriminator},
		{"if Your Discriminator is zero and the State is not Down or AdminDown (Up)", func(d []byte) []byte { binary.BigEndian.PutUint32(d[8:], 0); return d }, ErrYours},
		{"the same (Init)", func(d []byte) []byte {
			binary.BigEndian.PutUint32(d[8:], 0)
			d[1] = d[1]&0x3f | byte(Init)<<6
			return d
		}, ErrYours},
		{"if the A bit is set and no authentication is in use", func(d []byte) []byte { d[1] |= flagAuth; d[3] = 26; return append(d, 0, 0) }, ErrAuth},
	} {
		if _, err := Parse(c.spoil(sound().Append(nil))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.clause, err, c.want)
		}
	}
}

func TestParseTakes(t *testing.T) {
	for clause, change := range map[string]func(*Packet){
		"as it is":                            func(*Packet) {},
		"Your Discriminator 0 in Down":        func(p *Packet) { p.Yours, p.State = 0, Down },
		"Your Discriminator 0 in AdminDown":   func(p *Packet) { p.Yours, p.State = 0, AdminDown },
		"Poll":                                func(p *Packet) { p.Poll = true },
		"Final":                               func(p *Packet) { p.Final = true },
		"Demand":                              func(p *Packet) { p.Demand = true },
		"an echo interval":                    func(p *Packet) { p.RequiredMinEchoRx = time.Second },
		"a diagnostic nobody has defined yet": func(p *Packet) { p.Diagnostic = 31 },
	} {
		p := sound()
		change(&p)
		if got, err := Parse(append(p.Append(nil), 0xff)); err != nil || got != p { // what follows the packet is not its
			t.Errorf("%s: %+v, %v; want %+v", clause, got, err, p)
		}
	}
}

// TestPacketOnTheWire: the bytes as RFC 5880 section 4.1 draws them.
func TestPacketOnTheWire(t *testing.T) {
	p := sound()
	p.Diagnostic, p.Poll, p.RequiredMinEchoRx = NeighborDown, true, 5*time.Microsecond
	want := []byte{
		1<<5 | 3, 3<<6 | 0x20 | 0x08, 3, 24, 0, 0, 0, 7, 0, 0, 0, 9, 0, 1, 0x86, 0xa0, 0, 4, 0x93, 0xe0, 0, 0, 0, 5,
	}
	if got := p.Append(nil); string(got) != string(want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestPacketRoundTrip(t *testing.T) {
	word := rapid.Uint32()
	rapid.Check(t, func(t *rapid.T) {
		micro := func(name string) time.Duration { return time.Duration(word.Draw(t, name)) * time.Microsecond }
		p := Packet{
			Diagnostic: Diagnostic(rapid.IntRange(0, 31).Draw(t, "diag")), State: State(rapid.IntRange(0, 3).Draw(t, "state")),
			Poll: rapid.Bool().Draw(t, "P"), Final: rapid.Bool().Draw(t, "F"), Independent: rapid.Bool().Draw(t, "C"),
			Demand: rapid.Bool().Draw(t, "D"), Multiplier: rapid.Uint8Range(1, 255).Draw(t, "multiplier"),
			Mine: rapid.Uint32Min(1).Draw(t, "mine"), Yours: rapid.Uint32Min(1).Draw(t, "yours"),
			DesiredMinTx: micro("tx"), RequiredMinRx: micro("rx"), RequiredMinEchoRx: micro("echo"),
		}
		if got, err := Parse(p.Append(nil)); err != nil || got != p {
			t.Fatalf("%+v, %v; want %+v", got, err, p)
		}
	})
}

// FuzzParse: whatever arrives, nothing panics, and what is taken is written as it was.
func FuzzParse(f *testing.F) {
	f.Add(sound().Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			return
		}
		if again, err := Parse(p.Append(nil)); err != nil || again != p {
			t.Errorf("%+v became %+v, %v", p, again, err)
		}
	})
}
