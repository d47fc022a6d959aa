package measure_test

import (
	"crypto/sha256"
	"testing"

	"github.com/mkexec/mkexec/measure"
)

// Compare BenchmarkSum with BenchmarkSHA256, the bare hash on one core. They do
// not prove anything about reading from disk; `make bench` looks at whole runs.

const benchSize = 64 << 20

func BenchmarkSHA256(b *testing.B) {
	data := make([]byte, benchSize)
	b.SetBytes(benchSize)
	for b.Loop() {
		sha256.Sum256(data)
	}
}

func BenchmarkSum(b *testing.B) {
	content := measure.Bytes(make([]byte, benchSize))
	for name, banks := range map[string][]measure.Bank{"sha256": {measure.SHA256}, "four banks": measure.Banks()} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(benchSize)
			for b.Loop() {
				if _, err := measure.Sum(content, banks...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
