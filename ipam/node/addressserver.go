package node

import (
	"context"
	"net/netip"
	"time"

	"github.com/clearway/clearway/ipam/cidr"
	"github.com/clearway/clearway/ipam/proof"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// addressServer is the plugin's door: it checks what comes in and puts answers into words.
type addressServer struct {
	clearwayv1.UnimplementedAddressServiceServer
	*Node
}

// AddressServer is what the CNI plugin calls.
func (n *Node) AddressServer() clearwayv1.AddressServiceServer { return addressServer{Node: n} }

// Add implements AddressService.
func (s addressServer) Add(ctx context.Context, in *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
	began := time.Now()
	answer, err := s.answerAdd(ctx, in)
	s.metrics.adds.WithLabelValues(result(err)).Inc()
	s.metrics.addSeconds.Observe(time.Since(began).Seconds())
	if err != nil {
		s.log.Warn("no address for an attachment", "attachment", keyOf(in.GetAttachment()), "pod", podOf(in.GetPod()), "error", err)
	}
	return answer, statusOf(err)
}

func (s addressServer) answerAdd(ctx context.Context, in *clearwayv1.AddRequest) (*clearwayv1.AddResponse, error) {
	knowNamespace(in, s.snapshot())
	r, err := parseAdd(in)
	if err != nil {
		return nil, err
	}
	r.began = s.now()
	r.netns = s.identify(in.GetNetns())
	held, err := s.add(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.book.answer(held)
}

// identify finds the network namespace that an ADD names.
func (n *Node) identify(path string) proof.Namespace {
	if path == "" || n.options.Namespaces == nil {
		return proof.Namespace{Path: path}
	}
	return n.options.Namespaces.Identify(path)
}

// Del implements AddressService.
func (s addressServer) Del(ctx context.Context, in *clearwayv1.DelRequest) (*clearwayv1.DelResponse, error) {
	k, err := parseAttachment(in.GetAttachment())
	if err == nil {
		err = s.del(ctx, k, in.GetPod().GetUid())
	}
	s.metrics.dels.WithLabelValues(result(err)).Inc()
	if err != nil {
		s.log.Warn("attachment could not be released", "attachment", k, "error", err)
		return nil, statusOf(err)
	}
	return &clearwayv1.DelResponse{}, nil
}

// Check implements AddressService.
func (s addressServer) Check(_ context.Context, in *clearwayv1.CheckRequest) (*clearwayv1.CheckResponse, error) {
	k, err := parseAttachment(in.GetAttachment())
	if err != nil {
		return nil, statusOf(err)
	}
	addresses, err := parseAddresses("addresses", in.GetAddresses())
	if err != nil {
		return nil, statusOf(err)
	}
	if err := s.check(k, addresses); err != nil {
		return nil, statusOf(err)
	}
	return &clearwayv1.CheckResponse{}, nil
}

// Status implements AddressService.
func (s addressServer) Status(_ context.Context, in *clearwayv1.StatusRequest) (*clearwayv1.StatusResponse, error) {
	if err := checkPools(in.GetPools()); err != nil {
		return nil, statusOf(err)
	}
	if err := s.able(in.GetPools()); err != nil {
		return nil, statusOf(s.book.limited(err))
	}
	return &clearwayv1.StatusResponse{}, nil
}

// GC implements AddressService.
func (s addressServer) GC(ctx context.Context, in *clearwayv1.GCRequest) (*clearwayv1.GCResponse, error) {
	valid, err := parseGC(in)
	if err != nil {
		return nil, statusOf(err)
	}
	released, err := s.collect(ctx, in.GetNetwork(), valid)
	if err != nil {
		return nil, statusOf(err)
	}
	return &clearwayv1.GCResponse{Released: int32(released)}, nil
}

// able tells why an ADD would fail; nil: it would not, as far as is known.
func (n *Node) able(pools []string) error {
	if cause := n.journal.Cause(); cause != nil {
		return &cniError{code: cniUnavailable, msg: "the journal cannot be written", err: cause}
	}
	if !isClosed(n.settled) {
		return refuse(cniUnavailable, "the machine was started anew and ipamd has not confirmed yet which blocks are this node's")
	}
	return n.book.able(pools)
}

// answer puts an assignment into the words of the API: the address with its pool's prefix length, the pool's gateway
// (of a Rigid pool the block's), and a default route of each family by it. An assignment adopted from the mirror takes these from the pool of now.
func (b *book) answer(a *assignment) (*clearwayv1.AddResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	answer := &clearwayv1.AddResponse{}
	for _, h := range a.addrs {
		if h.Bits == 0 {
			p, ok := b.settings.pool(h.Pool)
			if !ok {
				return nil, refuse(cniTryLater, "attachment %s holds %s of pool %q, which is not known now", a.key, h.Addr, h.Pool)
			}
			if o := b.blockOf(h.Addr); o != nil {
				h.Block = o.CIDR
			}
			if p.Rigid && !h.Block.IsValid() {
				return nil, refuse(cniTryLater, "attachment %s holds %s, which is in no block of this node any more", a.key, h.Addr)
			}
			h.Bits, h.Gateway = p.Link(h.Block)
		}
		gateway := h.Gateway.String()
		answer.Addresses = append(answer.Addresses, &clearwayv1.AddressConfig{
			Address: netip.PrefixFrom(h.Addr, h.Bits).String(), Gateway: gateway,
		})
		answer.Routes = append(answer.Routes, &clearwayv1.RouteConfig{
			Destination: defaultRoute(h.Addr).String(), Gateway: gateway,
		})
	}
	return answer, nil
}

func defaultRoute(addr netip.Addr) netip.Prefix {
	if addr.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func parseAdd(in *clearwayv1.AddRequest) (request, error) {
	k, err := parseAttachment(in.GetAttachment())
	if err != nil {
		return request{}, err
	}
	if err := checkPod(in.GetPod()); err != nil {
		return request{}, err
	}
	if err := checkPools(in.GetPools()); err != nil {
		return request{}, err
	}
	if n := len(in.GetNetns()); n > maxNetns {
		return request{}, refuse(cniBadEnvironment, "netns: %.64q... has %d bytes, at most %d are taken", in.GetNetns(), n, maxNetns)
	}
	query, err := wishes(in)
	if err != nil {
		return request{}, err
	}
	static, err := wantedAddresses(in)
	if err != nil {
		return request{}, err
	}
	owner, err := wantedOwner(in)
	if err != nil {
		return request{}, err
	}
	return request{
		key: k, pod: podOf(in.GetPod()), query: query, static: static, started: time.Duration(in.GetStarted()), owner: owner,
	}, nil
}

// parseAddresses takes addresses with or without a prefix length, as prevResult and capability ips have them.
func parseAddresses(where string, texts []string) ([]netip.Addr, error) {
	if len(texts) > maxAddresses {
		return nil, refuse(cniBadConfig, "%s: there are %d, at most %d are taken", where, len(texts), maxAddresses)
	}
	addresses := make([]netip.Addr, 0, len(texts))
	for _, text := range texts {
		prefix, err := cidr.ParseAddressPrefix(text)
		addr := prefix.Addr()
		if err != nil {
			addr, err = cidr.ParseAddress(text)
		}
		if err != nil {
			return nil, refuse(cniBadConfig, "%s: %.64q must be an address, as 10.244.0.7 or 10.244.0.7/16", where, text)
		}
		addresses = append(addresses, addr)
	}
	return addresses, nil
}
