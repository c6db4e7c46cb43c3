package server_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/clearway/clearway/ipam/store/record"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// BenchmarkClaimAmong claims one block after the other out of a /8 that has as many already, of 5,000 nodes: what a claim costs
// is to stay the same. The store is in memory, so that the time is ipamd's own. B/block is what ipamd keeps of each; load-ms
// how long a new leader takes to read all of them.
func BenchmarkClaimAmong(b *testing.B) {
	for _, count := range []int{1_000, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("blocks=%d", count), func(b *testing.B) { claimAmong(b, count) })
	}
}

func claimAmong(b *testing.B, count int) {
	const bits = 28 // 2^20 of them are in a /8
	records := newFake()
	first := start(b, records) // it makes the store's life
	first.apply(ipPool("pods", "10.0.0.0/8", func(s *clearwayv1.IPPoolSpec) { s.BlockSize, s.MinBlockSize = bits, bits }))
	first.stop()
	claimed := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for n := range count {
		at := netip.AddrFrom4([4]byte{10, byte(n >> 12), byte(n >> 4), byte(n << 4)})
		node := fmt.Sprintf("node-%04d", n%5000)
		value, err := proto.Marshal(&clearwayv1.BlockSpec{
			Cidr: netip.PrefixFrom(at, bits).String(), Pool: "pods", Node: node, NodeUid: "00000000-0000-4000-8000-" + fmt.Sprintf("%012d", n%5000),
			State: clearwayv1.BlockState_BLOCK_STATE_OWNED, RequestKey: fmt.Sprintf("%032d", n), ClaimedTime: timestamp(claimed),
		})
		if err != nil {
			b.Fatal(err)
		}
		records.Put(record.BlockKey(netip.PrefixFrom(at, bits)), value)
	}
	before := liveHeap()
	began := time.Now()
	d := start(b, records)
	load := time.Since(began)
	a := d.agent("claimer")
	perBlock := float64(liveHeap()-before) / float64(count)
	for n := 0; b.Loop(); n++ {
		if _, err := a.claim("pods", fmt.Sprint("k", n)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(perBlock, "B/block")
	b.ReportMetric(float64(load.Milliseconds()), "load-ms")
}

func liveHeap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
