package nearest

import "testing"

func TestName(t *testing.T) {
	fields := []string{"cidr", "kind", "blockSize", "minBlockSize", "nodeSelector", "peerASN"}
	for word, want := range map[string]string{
		"blockSzie":                "blockSize",
		"blocksize":                "blockSize",
		"block_size":               "blockSize",
		"minblocksize":             "minBlockSize",
		"peerAsn":                  "peerASN",
		"cdir":                     "cidr",
		"gateway":                  "",
		"x":                        "",
		"":                         "",
		string(make([]byte, 1000)): "",
	} {
		if got := Name(word, fields); got != want {
			t.Errorf("Name(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestHint(t *testing.T) {
	if got, want := Hint("lsten", []string{"listen"}), `; did you mean "listen"?`; got != want {
		t.Errorf("Hint = %q, want %q", got, want)
	}
	if got := Hint("zzz", []string{"listen"}); got != "" {
		t.Errorf("Hint = %q, want none", got)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := distance(c.b, c.a); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.b, c.a, got, c.want)
		}
	}
}
