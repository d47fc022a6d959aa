package policy_test

// What an image says it is. It does not prove that the shell, which os-release(5)
// is for, reads the same from stranger files.

import (
	"testing"

	"github.com/mkexec/mkexec/policy"
)

// TestReadRelease is of the forms that os-release(5) shows, and of others.
func TestReadRelease(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, text, id, version string }{
		{"image", "ID=debian\nVERSION_ID=13\nIMAGE_ID=appliance\nIMAGE_VERSION=2.10\n", "appliance", "2.10"},
		{"distribution", "ID=debian\nVERSION_ID=\"13\"\n", "debian", "13"},
		{"rolling", "ID=arch\nBUILD_ID=rolling\n", "arch", ""},
		// the version of the distribution is not that of the image
		{"image without a version", "ID=debian\nVERSION_ID=13\nIMAGE_ID=appliance\n", "appliance", ""},
		{"version without an image", "ID=debian\nVERSION_ID=13\nIMAGE_VERSION=2.10\n", "debian", "13"},
		{"image with an empty ID", "ID=debian\nVERSION_ID=13\nIMAGE_ID=\nIMAGE_VERSION=2.10\n", "debian", "13"},
		{"image with an empty ID in quotes", "ID=debian\nVERSION_ID=13\nIMAGE_ID=\"\"\n", "debian", "13"},
		{"version alone", "VERSION_ID=13\n", "", ""},
		{"VERSION is for people", "ID=debian\nVERSION=13\n", "debian", ""},
		{"quotes", "IMAGE_ID='a'\nIMAGE_VERSION=\"1~rc1^x-1+b_c.d\"", "a", "1~rc1^x-1+b_c.d"},
		{"quotes that differ", "IMAGE_ID=a\nIMAGE_VERSION='1\"\n", "a", ""},
		{"quotes twice", "IMAGE_ID=a\nIMAGE_VERSION=\"'1'\"\n", "a", ""},
		{"a quote alone", "IMAGE_ID=a\nIMAGE_VERSION=\"\n", "a", ""},
		{"the last counts", "IMAGE_ID=a\nIMAGE_VERSION=2\nIMAGE_ID=b\nIMAGE_VERSION=1\n", "b", "1"},
		{"the last counts, whatever it is", "IMAGE_ID=a\nIMAGE_VERSION=2\nIMAGE_VERSION=$(x)\n", "a", ""},
		{"ID that is none", "ID=debian\nVERSION_ID=13\nIMAGE_ID=a b\nIMAGE_VERSION=1\n", "", ""},
		{"version with a comment", "ID=a\nVERSION_ID=13 # trixie\n", "a", ""},
		{"version with an escape", "ID=a\nVERSION_ID=1\\3\n", "a", ""},
		{"comment", "#ID=a\nID=b\n", "b", ""},
		{"blanks round a line", "  ID=a\t\r\n\tVERSION_ID=1  \n", "a", "1"},
		{"blanks round the sign", "ID =a\nID= b\n", "", ""},
		{"lower case", "id=a\n", "", ""},
		{"NUL", "ID=a\x00\n", "", ""},
		{"not ASCII", "ID=\u00e4\n", "", ""},
		{"empty", "", "", ""},
		{"no line end", "ID=a", "a", ""},
		{"no value", "ID\n=\n==\n", "", ""},
	} {
		if id, version := policy.ReadRelease(test.text); id != test.id || version != test.version {
			t.Errorf("%s: %q %q, want %q %q", test.name, id, version, test.id, test.version)
		}
	}
}
