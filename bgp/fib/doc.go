// Package fib writes routes into the Linux kernel, and keeps them there as desired. It is the only package that talks
// to the kernel about routes.
//
// # Whose route is whose
//
// A route is ours when it has our protocol number, our metric and our table: by default protocol 73, metric 20, the
// main table. Any other is never changed, replaced or removed. Linux replaces a route by destination and metric,
// whoever wrote it, therefore
//
//   - a route is created exclusively (NLM_F_EXCL): where one of another's stands, the kernel refuses, and the route's
//     status is Conflict;
//   - an IPv4 route is replaced only where ours is known to stand alone; what the kernel has told of others' doings is
//     read before each batch of requests;
//   - an IPv6 route is never replaced at all, but changed hop by hop, adding first: each hop has its own protocol
//     number, and the kernel merges hops of one metric into one route, whoever wrote them;
//   - while some of what the kernel has told is still unread, or was lost, no IPv4 route is replaced and no hop added:
//     this waits until all is read, or compared;
//   - a removal names protocol, metric, table and, in IPv6, the hop.
//
// IPv4 routes by one of many gateways lead to nexthop objects, which are owned likewise: see objects.go.
//
// # Registering the number
//
// Protocol numbers are handed out by custom only: include/uapi/linux/rtnetlink.h lists the kernel's and those of some
// daemons. 73 is in nobody's hands there. To see the name in the output of ip(8):
//
//	echo "73 clearway" > /etc/iproute2/rt_protos.d/clearway.conf
//	ip route show proto clearway
//
// Metric 20 is also what FRR gives its routes (protocol 186 for BGP), and BIRD's default is 32. Where another daemon
// writes the same prefixes into the same table, choose another metric: lower wins.
//
// # How it works
//
// Apply and Settled merge into the desired set under a mutex, and wake Run. Run, one goroutine, owns everything else:
// a picture of the kernel (what it has of ours, and links, addresses and routes of others), the next hops resolved by
// it, and the sockets. For each prefix that may differ it asks the planner for the next step, and sends steps in
// batches. Notifications correct the picture; a dump every minute, and after any doubt, corrects it for good. A dump is
// compared a thousand routes at a time, with what is to be written in between. Where it says less than it could (the
// kernel leaves IPv6 routes out, without a word, when others change meanwhile), nothing is taken to be gone by it.
//
// A BGP next hop is resolved through others' routes only, the default route among them (that is how a node reaches
// those behind its top-of-rack router), but not past an interface that is down on whose prefix the next hop lies.
package fib
