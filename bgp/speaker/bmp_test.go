package speaker

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/packet/bmp"
	"golang.org/x/sys/unix"
)

// collector is a BMP station: it reads messages (RFC 7854 section 4) and notes what each says, a line each.
type collector struct {
	listener net.Listener

	mu    sync.Mutex
	conns []net.Conn
	said  []string
}

// collectorIn listens in a network namespace.
func (l *lab) collectorIn(ns, address string) *collector {
	l.t.Helper()
	made := make(chan error)
	c := &collector{}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread goes with the goroutine
		file, err := os.Open("/var/run/netns/" + ns)
		if err == nil {
			defer file.Close()
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			c.listener, err = net.Listen("tcp", address)
		}
		made <- err
	}()
	if err := <-made; err != nil {
		l.t.Fatal(err)
	}
	go c.serve()
	l.t.Cleanup(func() {
		c.listener.Close()
		c.hangUp()
	})
	return c
}

func (c *collector) serve() {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.said = nil // what counts is what a connection says from its beginning
		c.mu.Unlock()
		go c.read(conn)
	}
}

func (c *collector) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.said = nil
}

func (c *collector) read(conn net.Conn) {
	for {
		header := make([]byte, bmp.BMP_HEADER_SIZE)
		if _, err := io.ReadFull(conn, header); err != nil {
			return
		}
		body := make([]byte, int(binary.BigEndian.Uint32(header[1:]))-len(header))
		if _, err := io.ReadFull(conn, body); err != nil {
			return
		}
		line := describeBMP(append(header, body...))
		c.mu.Lock()
		c.said = append(c.said, line)
		c.mu.Unlock()
	}
}

func describeBMP(data []byte) string {
	message, err := bmp.ParseBMPMessage(data)
	if err != nil {
		return err.Error()
	}
	peer := message.PeerHeader.PeerAddress
	switch body := message.Body.(type) {
	case *bmp.BMPInitiation:
		return "initiation"
	case *bmp.BMPPeerUpNotification:
		return fmt.Sprintf("peer %s up", peer)
	case *bmp.BMPPeerDownNotification:
		return fmt.Sprintf("peer %s down", peer)
	case *bmp.BMPRouteMonitoring:
		return fmt.Sprintf("peer %s post-policy %v: %s", peer, message.PeerHeader.IsPostPolicy(), prefixesOf(body.BGPUpdate.Body.(*bgp.BGPUpdate)))
	}
	return fmt.Sprintf("type %d", message.Header.Type)
}

// prefixesOf lists what an UPDATE tells, of both families.
func prefixesOf(update *bgp.BGPUpdate) string {
	var list []string
	for _, one := range update.NLRI {
		list = append(list, one.NLRI.String())
	}
	for _, attribute := range update.PathAttributes {
		if reach, ok := attribute.(*bgp.PathAttributeMpReachNLRI); ok {
			for _, one := range reach.Value {
				list = append(list, one.NLRI.String())
			}
		}
	}
	return strings.Join(list, " ")
}

func (c *collector) heard(wants ...string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := strings.Join(c.said, "\n")
	for _, want := range wants {
		if !strings.Contains(all, want) {
			return false
		}
	}
	return true
}

func (c *collector) all() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.said, "\n")
}

// TestBMP: a collector hears of a real router's session and of what it tells, in both families, before any policy. One that
// hangs up is called again and told all from the beginning; one that is wanted no more hears nothing. No session notices.
func TestBMP(t *testing.T) {
	l := newLab(t)
	station := l.collectorIn(l.tor, "192.0.2.1:11019")
	l.bird(birdConf)
	node := l.speaker(false)
	desired := nodeDesired("10.244.1.0/26")
	desired.Global.BMP = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:11019")}
	node.set(t, desired)
	whole := []string{
		"initiation", "peer 192.0.2.1 up", "peer 192.0.2.1 post-policy false", "10.244.9.0/26", "2001:db8:244:9::/122",
		"0.0.0.0/0", // which no policy lets in
	}
	eventually(t, 20*time.Second, func() bool { return station.heard(whole...) }, station.all)
	station.hangUp()
	eventually(t, 20*time.Second, func() bool { return station.heard(whole...) }, station.all)
	desired.Global.BMP = nil
	node.set(t, desired)
	eventually(t, 10*time.Second, func() bool { return station.alone() }, station.all)
	eventually(t, 10*time.Second, node.established, func() any { return node.sees() })
	if flaps := node.sees().Sessions[0].Flaps; flaps != 0 {
		t.Errorf("the session flapped %d times", flaps)
	}
}

// alone tells whether the last connection was closed at the other end.
func (c *collector) alone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.conns[len(c.conns)-1]
	_ = last.SetWriteDeadline(time.Now().Add(time.Second))
	_, err := last.Write([]byte{0})
	return err != nil
}

// TestRelayGivesUp: a collector that takes nothing is left after its time, so that what GoBGP has for it is let go.
func TestRelayGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gobgp, near := net.Pipe()
		far, deaf := net.Pipe()
		defer deaf.Close()
		go func() {
			_, _ = gobgp.Write([]byte("message"))
		}()
		began := time.Now()
		err := relay(near, far)
		if err == nil || !strings.Contains(err.Error(), "write to the collector") || time.Since(began) != bmpWrite {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}
