package lab

import (
	"slices"
	"strings"
	"sync"
)

// idSet is a set of labs' ids, safe for concurrent use.
type idSet struct {
	mu  sync.Mutex
	ids []string // guarded by mu
}

func (s *idSet) add(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, id)
}

func (s *idSet) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids)
}

func (s *idSet) anyIn(texts []string) bool {
	for _, id := range s.list() {
		for _, text := range texts {
			if strings.Contains(text, id) {
				return true
			}
		}
	}
	return false
}

// RunningNode is a node of some process's lab, as anyone on the host can find it.
type RunningNode struct {
	Lab, ID, Node string
	// PID is the node's first process; Owner the process that holds the lab.
	PID, Owner int
}

// Find lists the nodes of all labs on this host, by lab and node.
func Find() []RunningNode {
	var found []RunningNode
	for _, p := range processes() {
		if len(p.argv) == 4 && p.argv[0] == childName {
			found = append(found, RunningNode{Lab: p.argv[1], ID: p.argv[2], Node: p.argv[3], PID: p.pid, Owner: p.parent})
		}
	}
	slices.SortFunc(found, func(a, b RunningNode) int {
		return strings.Compare(a.Lab+"\x00"+a.ID+"\x00"+a.Node, b.Lab+"\x00"+b.ID+"\x00"+b.Node)
	})
	return found
}
