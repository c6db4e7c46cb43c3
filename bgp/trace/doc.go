// Package trace follows one block from its owner to the kernels of all other nodes: who owns it, whom its owner tells,
// who hears of it from whom, what each made of it, and which kernels have it. It names the first place where the chain
// breaks.
//
// It is pure: what etcd, ipamd and the nodes say is given to it.
package trace
