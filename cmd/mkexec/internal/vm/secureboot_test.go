//go:build linux

package vm

import (
	"bytes"
	"crypto/sha256"
	"os"
	"slices"
	"testing"
)

// TestRevoke shows that only OVMF's own dbx is changed, and by the digest only. That firmware refuses the image then is shown
// by the test of mkexec under Secure Boot.
func TestRevoke(t *testing.T) {
	t.Parallel()
	a := Require(t)
	store, err := os.ReadFile(a.SecureVars)
	if err != nil {
		t.Fatal(err)
	}
	nothing, digest := sha256.Sum256(nil), sha256.Sum256([]byte("an image"))
	revoked := slices.Clone(store)
	if err := revoke(revoked, digest[:]); err != nil {
		t.Fatal(err)
	}
	if bytes.Count(store, nothing[:]) != 1 || !bytes.Equal(revoked, bytes.Replace(store, nothing[:], digest[:], 1)) {
		t.Error("more than the digest has changed")
	}
	other, err := os.ReadFile(a.Vars)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what   string
		store  []byte
		digest []byte
		want   string
	}{
		{"SHA-1", store, digest[:20], "dbx: a digest of 20 bytes"},
		{"no dbx", other, digest[:], "dbx: not one list of one digest"},
		{"two", slices.Concat(store, store), digest[:], "dbx: not one list of one digest"},
		{"truncated", store[:bytes.Index(store, nothing[:])+31], digest[:], "dbx: not one list of one digest"},
		{"again", revoked, digest[:], "dbx: it forbids something already"},
	} {
		if err := revoke(slices.Clone(c.store), c.digest); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.what, err, c.want)
		}
	}
}
