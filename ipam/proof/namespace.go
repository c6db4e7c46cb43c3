package proof

// File names a file as the kernel does. The zero File is none.
type File struct {
	Device uint64 `json:"d,omitempty"`
	Inode  uint64 `json:"i,omitempty"`
}

func (f File) exists() bool { return f != File{} }

// Namespace is an attachment's network namespace as it was found where the runtime said that it is.
//
// The kernel gives an inode's number again after a namespace has gone: another number proves another namespace, the
// same number does not prove the same one.
type Namespace struct {
	// Path is the runtime's. Empty: it told none.
	Path string `json:"path,omitempty"`
	// Self is what the path led to; none: no namespace was found there by whoever looked.
	Self File `json:"self,omitzero"`
	// Folder is what the path lies in; none for a path in /proc, where a folder has no lasting number. While it is the
	// same one, a name that is missing in it is truly gone, and not behind a mount that cannot be seen.
	Folder File `json:"folder,omitzero"`
}

// Known tells whether the namespace was seen, so that its end can be.
func (n Namespace) Known() bool { return n.Self.exists() }

// Sighting is what is found where a namespace was.
type Sighting struct {
	// Self is what the path leads to, where that is a network namespace; Folder what the path lies in. None: it could
	// not be seen, or is not looked at (in /proc).
	Self, Folder File
	// Missing: there is nothing of the path's name.
	Missing bool
	// Fault is why it could not be looked at.
	Fault string
}

// Standing is what is known of something: that it lives, that it has gone, or neither.
type Standing int

// The standings. The zero one is Unknown: what nobody has looked at proves nothing.
const (
	Unknown Standing = iota
	Alive
	Gone
)

// Finding is a standing and what shows it, in a sentence's part.
type Finding struct {
	Standing
	Why string
}

// Compare tells what a sighting says of the namespace.
func (n Namespace) Compare(s Sighting) Finding {
	switch {
	case n.Path == "":
		return Finding{Unknown, "the runtime named no network namespace"}
	case !n.Known():
		return Finding{Unknown, "its network namespace " + n.Path + " could not be seen when it came"}
	case s.Fault != "":
		return Finding{Unknown, "its network namespace " + n.Path + " cannot be looked at: " + s.Fault}
	case s.Folder != n.Folder:
		return Finding{Unknown, "the folder of its network namespace " + n.Path + " is not the one it was in, or not visible"}
	case s.Self == n.Self:
		return Finding{Alive, "its network namespace is there"}
	case s.Self.exists():
		return Finding{Gone, "at " + n.Path + " is another network namespace"}
	case s.Missing:
		return Finding{Gone, "its network namespace " + n.Path + " is gone"}
	}
	return Finding{Unknown, "at " + n.Path + " is no network namespace: a mount may be hidden"}
}
