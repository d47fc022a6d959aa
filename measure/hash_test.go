package measure

// This test is of messages that begin with the same content. It does not prove
// that the hashes are right, but that none of them changes another.

import (
	"crypto/sha256"
	"slices"
	"testing"
)

func TestSumAllShared(t *testing.T) {
	for _, size := range []int{3, 2*chunkSize + 1} {
		first, second := make([]byte, size), []byte("more")
		a, b := Bytes(first), Bytes(second)
		parts := [][]Content{{a, b}, {a}, {a, b, b}, {a, a}, {a}, {b, a}, {b}}
		var messages []message
		for _, p := range parts {
			messages = append(messages, message{"m", p, []Bank{SHA256, SHA512}})
		}
		messages[1].banks = []Bank{SHA256}
		got, err := sumAll(messages, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range parts {
			var whole []byte
			for _, c := range p {
				whole = append(whole, map[Content][]byte{a: first, b: second}[c]...)
			}
			want := sha256.Sum256(whole)
			if !slices.Equal(got[i][SHA256], want[:]) || len(got[i]) != len(messages[i].banks) {
				t.Errorf("message %d: %v, want %x", i, got[i], want)
			}
		}
	}
}
