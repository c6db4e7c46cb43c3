package clearwayv1

// A block's generation has two parts: the store's revision at which its owner got it, and above it how often the store
// had been restored by then, so that generations rise although revisions went back.
const (
	generationBits = 40
	// MaxEpoch is the greatest epoch that a generation has room for.
	MaxEpoch = 1<<(62-generationBits) - 1
)

// Generation puts an epoch's number and a revision together.
func Generation(epoch, revision int64) int64 { return epoch<<generationBits + revision }

// SplitGeneration takes a generation apart.
func SplitGeneration(generation int64) (epoch, revision int64) {
	return generation >> generationBits, generation & (1<<generationBits - 1)
}
