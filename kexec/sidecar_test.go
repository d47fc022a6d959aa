package kexec

// Files beside an image are staged as the image is: copied once, sealed, and
// what is hashed and loaded is the copy. What the stub's rules make of them is
// what package measure/stub's golden tests prove.

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// sidecars has one of each kind that ends up in the initrd.
func sidecars(t testing.TB) stub.Sidecars {
	file := func(name string, data []byte) stub.File { return stub.File{Name: name, Content: measure.Bytes(data)} }
	addon := build(t, "262", ukitest.Section{Name: ".initrd", Data: noise(1501, 21)}, ukitest.Section{Name: ".ucode", Data: noise(333, 22)},
		ukitest.Section{Name: ".cmdline", Data: []byte("addon")})
	return stub.Sidecars{
		Image:       []stub.File{file("a.cred", noise(11, 23)), file("b.raw", noise(5003, 24)), file("c.confext.raw", noise(3, 25))},
		Addons:      []stub.File{file("d.addon.efi", addon)},
		Credentials: []stub.File{file("e.cred", nil)},
		Extensions:  []stub.File{file("f.raw", noise(1<<20+1, 26))},
		Entry:       []stub.File{file("g.cred", noise(2003, 27)), file("h.sysext.raw", noise(5, 28))},
	}
}

func TestStageSidecars(t *testing.T) {
	image := build(t, "262.1-1",
		ukitest.Section{Name: ".osrel", Data: []byte("ID=test\n")},
		ukitest.Section{Name: ".linux", Data: testKernel(t, 5001)},
		ukitest.Section{Name: ".initrd", Data: noise(3001, 2)},
	)
	opts := kexecOptions("")
	opts.Sidecars = sidecars(t)
	original, err := load(measure.Bytes(image), opts)
	if err != nil {
		t.Fatal(err)
	}
	want := concat(t, original.Initrd)
	for _, part := range [][]byte{noise(1501, 21), noise(333, 22), noise(11, 23), noise(5003, 24), noise(3, 25), noise(1<<20+1, 26), noise(2003, 27), noise(5, 28)} {
		if !bytes.Contains(want, part) {
			t.Fatalf("by the rules, %d bytes are missing in the initrd", len(part))
		}
	}
	s, err := stage(Source{UKI: measure.Bytes(image)}, opts, func(int64) {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if !bytes.Equal(readFile(t, s.initrd), want) {
		t.Error("the initrd is not that of the rules")
	}
	checkSealed(t, s.initrd, s.beside)
	checkPCRs(t, final(t, &original.Image), final(t, &s.boot.Image))
}

func final(t testing.TB, image *measure.Image) measure.PCRs {
	t.Helper()
	pcrs, err := predict(t, image).At("")
	if err != nil {
		t.Fatal(err)
	}
	return pcrs
}

// TestSidecarsChange replaces a sidecar while it is read: the staged system is
// then that of the one state or the other, or nothing is staged.
func TestSidecarsChange(t *testing.T) {
	image := planImage(t)
	before, after := noise(3<<20+7, 30), noise(3<<20+7, 31)
	for at := 1; ; at++ {
		changing := &turncoat{before: before, after: after, at: at}
		opts := kexecOptions("")
		opts.Sidecars.Image = []stub.File{{Name: "x.raw", Content: changing}}
		s, err := stage(Source{UKI: measure.Bytes(image)}, opts, func(int64) {})
		if err != nil {
			t.Fatal(err)
		}
		read := changing.reads
		// What is measured is what is in the initrd, whichever that is.
		measured := final(t, &s.boot.Image)
		copied := s.boot.Initrd
		loaded := readFile(t, s.initrd)
		if !bytes.Equal(concat(t, copied), loaded) {
			t.Errorf("changed at read %d: what is measured is not what is loaded", at)
		}
		checkPCRs(t, measured, final(t, &s.boot.Image))
		if changing.reads != read {
			t.Errorf("changed at read %d: the file is read after it is staged", at)
		}
		s.close()
		if at > read {
			return
		}
	}
}

func TestSidecarShort(t *testing.T) {
	files := countFiles(t)
	opts := kexecOptions("")
	opts.Sidecars.Credentials = []stub.File{{Name: "x.cred", Content: &short{Reader: bytes.NewReader(noise(100, 1)), at: 1, err: io.EOF}}}
	s, err := stage(Source{UKI: measure.Bytes(planImage(t))}, opts, func(int64) {})
	checkError(t, err, false, "x.cred: read at*")
	if s != nil || countFiles(t) != files {
		t.Errorf("%v, %d files are open, %d were", s, countFiles(t), files)
	}
}

func TestDevicetree(t *testing.T) {
	image := build(t, "262.1-1",
		ukitest.Section{Name: ".linux", Data: testKernel(t, 5001)},
		ukitest.Section{Name: ".dtb", Data: []byte("a devicetree")},
	)
	fake, kernel := tpmtest.NewFake(), &fakeKernel{}
	device := tpm.New(fake, tpm.Options{})
	_, err := NewPlan(Source{UKI: measure.Bytes(image)}, device, kernel, Options{})
	checkError(t, err, false, "section .dtb: a devicetree cannot be given to the kernel by kexec: it would go on with that of the running one")
	if !errors.Is(err, ErrDevicetree) {
		t.Error("not ErrDevicetree")
	}
	kernel.check(t)
	plan, err := NewPlan(Source{UKI: measure.Bytes(image)}, device, kernel, Options{IgnoreDevicetree: true})
	if err != nil {
		t.Fatal(err)
	}
	plan.Close()
}
