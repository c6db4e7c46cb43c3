// Package schema is what holds of the resources beside the types of their fields: bounds, defaults, and the rules that
// can be judged from one resource alone. rules.yaml has them, by message and field of the .proto files.
//
// Two doors read it. CRDs makes Kubernetes' CustomResourceDefinitions of it, so that the API server refuses what ipamd
// would refuse; Faults holds a resource to the bounds, for ipamd, whose own rules are written in Go. That both doors say
// the same is held by a test with a real API server and a real ipamd (integration/kube).
//
// What lies between resources (pools that overlap, a filter that does not exist) is no rule of one of them: ipamd judges
// it, and tells it in a resource's condition.
package schema
