package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clearway/clearway/ipam/pool"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// An address of a Floating pool is a block of one address, that ipamd gave this node for one owner. It is advertised while
// an attachment holds it, and goes back as soon as none does: then its owner may have it on another node (design, Floating
// hand-over). An ADD asks ipamd for it, since only there is known where the owner had it before.

// holder is who keeps an address over the life of one Pod: a Pod's name, or what its annotation says, on an interface.
type holder struct {
	Owner   string `json:"owner,omitempty"`
	Network string `json:"network,omitempty"`
	Ifname  string `json:"ifname,omitempty"`
}

// String is empty for nobody. None of the parts has a space.
func (h holder) String() string {
	if h == (holder{}) {
		return ""
	}
	return h.Owner + " " + h.Network + " " + h.Ifname
}

func holderOf(f *clearwayv1.FloatingHolder) holder {
	return holder{Owner: f.GetOwner(), Network: f.GetNetwork(), Ifname: f.GetIfname()}
}

func (h holder) proto() *clearwayv1.FloatingHolder {
	if h == (holder{}) {
		return nil
	}
	return &clearwayv1.FloatingHolder{Owner: h.Owner, Network: h.Network, Ifname: h.Ifname}
}

// holder is who keeps the addresses of an ADD; nobody, where no Pod is named.
func (r request) holder() holder { return holderFor(r.key, r.pod, r.owner) }

func (a *assignment) holder() holder { return holderFor(a.key, a.pod, a.owner) }

func holderFor(k key, p pod, owner string) holder {
	if owner == "" && p.Name != "" {
		owner = p.Namespace + "/" + p.Name
	}
	if owner == "" {
		return holder{}
	}
	return holder{Owner: owner, Network: k.Network, Ifname: k.Ifname}
}

// floatingHolder is who an address of a Floating pool is asked for: what is no Pod is itself.
func (r request) floatingHolder() holder {
	if h := r.holder(); h != (holder{}) {
		return h
	}
	return holder{Owner: r.key.Container, Network: r.key.Network, Ifname: r.key.Ifname}
}

// floatings is what is under way about floating addresses, by whose they are. It is part of the book, under its mutex.
type floatings struct {
	asking    map[holder]int  // ADDs that ask ipamd
	releasing map[holder]bool // what ipamd gave and nobody waited for is being given back
}

func newFloatings() floatings {
	return floatings{asking: map[holder]int{}, releasing: map[holder]bool{}}
}

// askFloating notes that an ADD asks ipamd for an address: what comes is not given back until it is done.
func (n *Node) askFloating(h holder) (done func()) {
	n.book.mu.Lock()
	defer n.book.mu.Unlock()
	n.book.floating.asking[h]++
	return func() {
		n.book.mu.Lock()
		defer n.book.mu.Unlock()
		if n.book.floating.asking[h]--; n.book.floating.asking[h] == 0 {
			delete(n.book.floating.asking, h)
			n.book.emptied.wake() // what came and was not used
			n.callDue.wake()
		}
	}
}

// spare tells whether a floating address is to be given back: nobody holds it, and nobody asks for it.
func (b *book) spare(o *ownBlock) bool {
	return o.returning == nil && !o.blockRecord.Sealed && b.floating.asking[o.Floating] == 0 && !o.Assigned(o.CIDR.Addr())
}

// floatingWish is one address that is to be asked of ipamd.
type floatingWish struct {
	pools  []string
	asked  netip.Addr // invalid: any
	holder holder
}

// takeFloating takes the owner's address out of what ipamd gave the node, or says what is to be asked of it.
func (b *book) takeFloating(pools []pool.Pool, asked netip.Addr, r request) (held, *shortage, error) {
	h := r.floatingHolder()
	names := make([]string, 0, len(pools))
	for _, p := range pools {
		names = append(names, p.Name)
	}
	short := &shortage{changed: b.changed}
	for _, o := range b.blocks {
		at := slices.Index(names, o.Pool)
		if o.Floating != h || at < 0 || asked.IsValid() && asked != o.CIDR.Addr() {
			continue
		}
		switch addr := o.CIDR.Addr(); {
		case o.returning != nil:
			short.text = fmt.Sprintf("%s is being given back", addr)
		case o.Block.Sealed():
			short.text = fmt.Sprintf("%s is sealed: it is not known yet who has it", addr)
		case o.Restore(addr) != nil:
			short.text = fmt.Sprintf("%s is held by attachment %s of the same owner, %s", addr, b.holderText(addr), h.Owner)
		default:
			return b.reserveLocked(pools[at], o, addr, r.key), nil, nil
		}
		return held{}, short, nil
	}
	what := fmt.Sprintf("an address of pool %s", strings.Join(names, " or "))
	if asked.IsValid() {
		what = fmt.Sprintf("%s of pool %s", asked, strings.Join(names, " or "))
	}
	switch {
	case b.floating.releasing[h]:
		short.text = what + " is being given back"
	case !b.offlineSince.IsZero():
		short.text = what + " is given by ipamd, which does not answer"
	default:
		short.text = what + " was asked of ipamd"
		short.floating = &floatingWish{pools: names, asked: asked, holder: h}
	}
	return held{}, short, nil
}

// holderText names the attachment that has an address, or is about to.
func (b *book) holderText(addr netip.Addr) string {
	if a := b.holders[addr]; a != nil {
		return a.key.String()
	}
	return b.reserved[addr].String()
}

// claimFloating asks ipamd for one address. Pending is why it is to be asked again; nil: the address is the node's. An error
// is final.
func (n *Node) claimFloating(ctx context.Context, r request, w *floatingWish) (pending, final error) {
	s := n.session()
	if s == nil {
		return errOffline, nil
	}
	request := &clearwayv1.ClaimFloatingRequest{
		Node: n.options.Node, SessionId: s.id, RequestKey: w.requestKey(r), Pools: w.pools, Holder: w.holder.proto(),
	}
	if w.asked.IsValid() {
		request.Address = w.asked.String()
	}
	call, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	answer, err := s.client.ClaimFloating(call, request)
	if err != nil {
		s.judge(err)
		return n.judgeFloating(err)
	}
	n.reach(position{answer.GetIncarnation(), s.term, answer.GetRevision()})
	block, err := parseBlock(answer.GetBlock())
	switch why := n.book.valid(block.CIDR); {
	case err != nil:
	case why != "":
		err = errors.New(why)
	case !block.CIDR.IsSingleIP() || block.Floating != w.holder:
		err = errors.New("it is no address of this owner")
	}
	if err != nil {
		return nil, refuse(cniTryLater, "ipamd gave %q, which cannot be used: %v", answer.GetBlock().GetCidr(), err)
	}
	if _, err := n.write(ctx, block); err != nil {
		return nil, err
	}
	n.log.Info("got a floating address", "address", block.CIDR.Addr(), "pool", block.Pool, "owner", w.holder.Owner)
	return nil, nil
}

// requestKey is the same for each try of an attachment.
func (w *floatingWish) requestKey(r request) string {
	sum := sha256.Sum256([]byte(strings.Join(append(slices.Clone(w.pools), r.key.String(), w.asked.String()), "\n")))
	return "floating-" + hex.EncodeToString(sum[:16])
}

// judgeFloating tells apart what is worth asking again, and what code a final refusal has.
func (n *Node) judgeFloating(err error) (pending, final error) {
	text := status.Convert(err).Message()
	switch code := status.Code(err); {
	case handingOver(err) || isRecovering(err) || isTooMany(err):
		return errors.New(text), nil
	case code == codes.InvalidArgument || code == codes.NotFound:
		return nil, refuse(cniBadConfig, "no floating address can be given: %s", text)
	case code == codes.Unimplemented:
		return nil, refuse(cniTryLater, "no floating address can be given: ipamd is older than this agent, and does not know them")
	case isRefusal(err):
		return nil, refuse(cniTryLater, "no floating address can be given: %s", text)
	}
	return errors.New(text), nil
}

// handingOver tells whether a refusal says that the owner's address has not been given up elsewhere.
func handingOver(err error) bool {
	return slices.ContainsFunc(status.Convert(err).Details(), func(detail any) bool {
		_, is := detail.(*clearwayv1.HandOver)
		return is
	})
}

// releaseStray gives an address back that ipamd gave to an ADD which never heard of it. The journal does not know it, so it
// was never advertised; and by its generation nothing newer is given back.
func (n *Node) releaseStray(ctx context.Context, s *session, spec *clearwayv1.BlockSpec) error {
	r, err := parseBlock(spec)
	if err != nil || r.Floating == (holder{}) || spec.GetState() != clearwayv1.BlockState_BLOCK_STATE_OWNED || !n.book.beginStray(r) {
		return nil // what cannot be read is none of ours
	}
	defer n.book.endStray(r.Floating)
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	_, err = s.client.ReleaseBlock(ctx, &clearwayv1.ReleaseBlockRequest{
		Node: n.options.Node, SessionId: s.id, RequestKey: uuid.NewString(), Cidr: spec.GetCidr(), Generation: spec.GetGeneration(),
	})
	if err != nil {
		s.judge(err)
		return err
	}
	n.log.Info("gave back an address that nobody waits for any more", "address", spec.GetCidr(), "owner", r.Floating.Owner)
	return nil
}

func (b *book) beginStray(r blockRecord) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.blockOf(r.CIDR.Addr()) != nil || b.floating.asking[r.Floating] > 0 || b.floating.releasing[r.Floating] {
		return false
	}
	b.floating.releasing[r.Floating] = true
	return true
}

func (b *book) endStray(h holder) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.floating.releasing, h)
	b.wakeLocked()
}

// withFloating is what an ADD asks for, with the Floating pools of the addresses that it asks for: to ask for one of their
// addresses is to name the pool, where none of the family is named.
func (s *settings) withFloating(r request) pool.Query {
	query := r.query
	for _, addr := range r.static {
		family := pool.IPv6
		if addr.Is4() {
			family = pool.IPv4
		}
		named := slices.ContainsFunc(query.Wanted, func(w pool.Wanted) bool { return w.Only == 0 || w.Only == family })
		at := slices.IndexFunc(s.pools, func(p pool.Pool) bool { return p.Kind == pool.Floating && p.CIDR.Contains(addr) })
		if at >= 0 && !named {
			query.Wanted = append(slices.Clone(query.Wanted), pool.Wanted{
				Where: "address " + addr.String(), Names: []string{s.pools[at].Name}, Only: family,
			})
		}
	}
	return query
}

// elsewhere: an address that was asked for is of a Block pool, and not in a block of this node.
type elsewhere struct {
	addr netip.Addr
	pool string
}

func (e *elsewhere) Error() string {
	return fmt.Sprintf("address %s was asked for, and is in none of this node's blocks of pool %q", e.addr, e.pool)
}

// explain puts more into a refusal than the book knows.
func (n *Node) explain(err error) error {
	if err == nil {
		return nil
	}
	if far := new(elsewhere); errors.As(err, &far) {
		return n.notHere(far)
	}
	return err
}

// notHere is the refusal of an address elsewhere, with who has the block that it is in.
func (n *Node) notHere(e *elsewhere) error {
	whose := "no node has a block with it"
	if node, block := n.ownerOf(e.addr); node != "" {
		whose = fmt.Sprintf("block %s with it is node %q's", block, node)
	}
	return refuse(cniBadConfig, "%s: %s. A Block pool's addresses stay on their node; for one that may be on any, ask a pool of kind %s",
		e, whose, pool.Floating)
}

// ownerOf finds who has the block that an address is in, by the ownership log; empty: nobody.
func (n *Node) ownerOf(addr netip.Addr) (node, block string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, entry := range n.owners.entries {
		if prefix, err := netip.ParsePrefix(entry.GetBlock().GetCidr()); err == nil && prefix.Contains(addr) {
			return entry.GetBlock().GetNode(), prefix.String()
		}
	}
	return "", ""
}
