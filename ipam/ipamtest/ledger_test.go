package ipamtest_test

import (
	"fmt"
	"slices"
	"sync"
)

// ledger is what the Pods know: who was told to have which address, by a program that lived when it told.
type ledger struct {
	mu     sync.Mutex // guards all below
	holder map[string]string
	pods   map[string][]string // addresses
	faults []string
	held   int // how often an address was given
}

func newLedger() *ledger { return &ledger{holder: map[string]string{}, pods: map[string][]string{}} }

// hold notes an answer to an ADD. A repeated one must tell the same.
func (l *ledger) hold(pod string, addresses []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before, again := l.pods[pod]; again {
		if !slices.Equal(before, addresses) {
			l.faults = append(l.faults, fmt.Sprintf("Idempotent: %s had %v and now %v", pod, before, addresses))
		}
		return
	}
	for _, address := range addresses {
		if other, taken := l.holder[address]; taken {
			l.faults = append(l.faults, fmt.Sprintf("OneHolder: %s is given to %s, and %s has it", address, pod, other))
		}
		l.holder[address] = pod
	}
	l.pods[pod] = addresses
	l.held += len(addresses)
}

// drop notes that a DEL will be asked for: from now on nobody counts on the addresses.
func (l *ledger) drop(pod string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, address := range l.pods[pod] {
		if l.holder[address] == pod {
			delete(l.holder, address)
		}
	}
	delete(l.pods, pod)
}

func (l *ledger) of(pod string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pods[pod]
}

func (l *ledger) fault(text string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, fmt.Sprintf(text, args...))
}

// told is the faults so far; at most a few.
func (l *ledger) told() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.faults[:min(len(l.faults), 10)])
}

// lines is the whole of it as "address pod", sorted, to be compared with other books.
func (l *ledger) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for address, pod := range l.holder {
		all = append(all, address+" "+pod)
	}
	slices.Sort(all)
	return all
}

func (l *ledger) given() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}
