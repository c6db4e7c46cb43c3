// Package tor writes the router's side of BGPPeers: from the resources that make the nodes' sessions it derives a
// Router, and puts that into the language of a vendor's configuration.
//
// It is pure. A password is a placeholder: resources have none, only the path of a file on the nodes.
package tor
