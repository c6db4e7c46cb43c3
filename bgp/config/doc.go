// Package config turns what operators wrote into what this node's BGP speaker is to be: a NodeSnapshot (and what the
// ownership log says of the other nodes) goes in, a Desired comes out. It also says what is wrong with a
// BGPConfiguration, BGPPeer, BGPFilter or Node before it is stored.
//
// It is pure: the same input gives the same Desired, in the same order.
package config
