package kexec

// A packed kernel is measured as it is shipped and loaded as it is unpacked. That
// a kernel which was unpacked here starts is not proved: no machine of such an
// architecture takes part in the tests.

import (
	"bytes"
	"compress/gzip"
	"os"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
)

func TestPrepareKernel(t *testing.T) {
	image, err := os.ReadFile("testdata/kernels/arm64") // the beginning of Debian's
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(image); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	broken := bytes.Clone(packed.Bytes())
	broken[len(broken)-6] ^= 1 // of the checksum
	for _, test := range []struct {
		name, arch string
		linux      []byte
		unpacked   bool
		want       string
	}{
		{"packed", "arm64", packed.Bytes(), true, "<nil>"},
		{"as it is", "arm64", image, false, "<nil>"},
		{"one byte changed", "arm64", broken, false, "unpack (gzip): *"},
		{"not on amd64", "amd64", packed.Bytes(), false, "kernel: it is packed (gzip)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := countFiles(t)
			s, err := stage(Source{Linux: measure.Bytes(test.linux)}, stub.Options{}, func(int64) {})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if s.close(); countFiles(t) != files {
					t.Errorf("%d files are open, %d were", countFiles(t), files)
				}
			}()
			err = s.prepareKernel(test.arch)
			checkError(t, err, false, test.want)
			if err != nil {
				return
			}
			if (s.kernel != s.linux) != test.unpacked {
				t.Errorf("what is loaded is not what was expected")
			}
			checkSealed(t, s.linux, s.kernel)
			if !bytes.Equal(readFile(t, s.kernel), image) {
				t.Error("the kernel that is loaded is not the one that was packed")
			}
			if !bytes.Equal(readAll(t, s.boot.Kernel), test.linux) {
				t.Error("the kernel that is measured is not the one that is shipped")
			}
		})
	}
}
