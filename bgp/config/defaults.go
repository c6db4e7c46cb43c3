package config

import (
	"cmp"
	"time"

	"github.com/clearway/clearway/bgp/policy"
	"github.com/clearway/clearway/bgp/route"
	clearwayv1 "github.com/clearway/clearway/proto/clearway/v1"
)

// DefaultName is the name of the one BGPConfiguration that is in force.
const DefaultName = "default"

// The values of nodeMesh.
const (
	MeshAuto       = "Auto"
	MeshFull       = "Full"
	MeshReflectors = "Reflectors"
	MeshNone       = "None"
)

var defaults = struct {
	asn           uint32
	port          int
	hold          time.Duration
	connectRetry  time.Duration
	restart       time.Duration
	deferral      time.Duration
	allowOwnAS    int
	meshTTL       uint8
	bfdInterval   time.Duration
	bfdMultiplier int32
	listenLimit   int
	restartAfter  time.Duration
	warnPercent   int64

	reflectAbove, clientsPerReflector int
}{
	asn:           64512,                  // the first private AS number (RFC 6996)
	port:          179,                    // IANA's
	hold:          90 * time.Second,       // RFC 4271 section 10; a link that goes down is seen at once, a silent peer by then
	connectRetry:  5 * time.Second,        // RFC 4271 suggests 120 s, which is long for a rack that comes back
	restart:       120 * time.Second,      // an agent is back in seconds; a machine's kernel keeps its routes no longer than a boot
	deferral:      20 * time.Second,       // a living peer tells all within seconds; a dead one is not to hold the rest
	allowOwnAS:    1,                      // nodes behind ToRs share an ASN, and it is in the path once; SafeImport guards the rest
	bfdInterval:   300 * time.Millisecond, // what FRR has, and what a busy machine keeps up
	bfdMultiplier: 3,
	listenLimit:   100,             // a rack or two; a prefix typed too short is no open door
	restartAfter:  5 * time.Minute, // so that a leak is seen, and one that is over needs nobody
	warnPercent:   80,
	reflectAbove:  100, clientsPerReflector: 100, // some hundred sessions are no burden to anybody
	meshTTL: 64, // a mesh across routers: what an ordinary packet has
}

var scopes = map[string]policy.Scope{
	"": policy.Owned, "Owned": policy.Owned, "Pools": policy.Pools, "All": policy.All,
}

var families = map[string]route.Family{"IPv4": route.IPv4, "IPv6": route.IPv6}

// durationOr reads a duration that Validate has passed; absent or not readable, it is the default.
func durationOr(text string, otherwise time.Duration) time.Duration {
	value, err := time.ParseDuration(text)
	if text == "" || err != nil || value <= 0 {
		return otherwise
	}
	return value
}

// timers are those of a session: the peer's own, else the configuration's, else the defaults. A keepalive time that
// is absent, or more than the hold time lets, is a third of it (RFC 4271 section 4.4).
func timers(holdText, keepaliveText string, configuration *clearwayv1.BGPConfigurationSpec) (hold, keepalive time.Duration) {
	hold = durationOr(holdText, durationOr(configuration.GetHoldTime(), defaults.hold))
	third := max((hold / 3).Truncate(time.Second), time.Second)
	if holdText == "" && keepaliveText == "" {
		keepaliveText = configuration.GetKeepaliveTime()
	}
	keepalive = durationOr(keepaliveText, third)
	return hold, min(keepalive, third)
}

// gracefulRestart merges the peer's with the configuration's, field by field.
func gracefulRestart(own, configured *clearwayv1.GracefulRestart) GracefulRestart {
	base := configured
	if own != nil {
		base = own
	}
	return GracefulRestart{
		Enabled:      !base.GetDisabled(),
		RestartTime:  durationOr(own.GetRestartTime(), durationOr(configured.GetRestartTime(), defaults.restart)),
		DeferralTime: durationOr(own.GetDeferralTime(), durationOr(configured.GetDeferralTime(), defaults.deferral)),
		LongLived:    durationOr(own.GetLongLivedTime(), durationOr(configured.GetLongLivedTime(), 0)),
	}
}

// maxPrefixes are a peer's, with what it leaves out.
func maxPrefixes(spec *clearwayv1.MaxPrefixes) MaxPrefixes {
	if spec.GetLimit() == 0 {
		return MaxPrefixes{}
	}
	limit := int64(spec.GetLimit())
	percent := cmp.Or(int64(spec.GetWarnPercent()), defaults.warnPercent)
	return MaxPrefixes{
		Limit: limit, Action: LimitAction(cmp.Or(spec.GetAction(), string(LimitRestart))),
		RestartAfter: durationOr(spec.GetRestartAfter(), defaults.restartAfter), WarnAt: max(limit*percent/100, 1),
	}
}
