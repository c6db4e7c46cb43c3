package fib

import (
	"strings"
	"testing"
)

func TestOptionsNameWhatIsWrong(t *testing.T) {
	for _, tc := range []struct {
		opts Options
		want []string
	}{
		{Options{Protocol: 4}, []string{"route protocol 4", "5 to 255"}},
		{Options{Protocol: 256}, []string{"route protocol 256", "5 to 255"}},
		{Options{Protocol: -1}, []string{"route protocol -1", "5 to 255"}},
		{Options{Protocol: 12}, []string{"route protocol 12", "bird", "73"}},
		{Options{Protocol: 186}, []string{"route protocol 186", "FRR"}},
		{Options{Metric: -1}, []string{"route metric -1", "1 to 4294967295"}},
		{Options{Metric: 1 << 32}, []string{"route metric 4294967296"}},
		{Options{Table: -1}, []string{"route table -1", "1 to 4294967295"}},
		{Options{Table: 255}, []string{"route table 255", "local", "254"}},
	} {
		_, err := tc.opts.withDefaults()
		if err == nil {
			t.Errorf("%+v is taken", tc.opts)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v does not say %q", tc.opts, err, want)
			}
		}
	}
	opts, err := Options{}.withDefaults()
	if err != nil || opts.Protocol != 73 || opts.Metric != 20 || opts.Table != 254 || opts.Logger == nil {
		t.Errorf("defaults %+v, %v", opts, err)
	}
}
