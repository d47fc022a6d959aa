package stub_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-attestation/attest"
	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
)

// These tests compare with what the real systemd-stub measured
// (testdata/golden/README.md). They do not prove the initrd or the command line
// that the kernel got, which no event shows; the VM tests in cmd/mkexec do.

// started says how each golden image was started.
var started = map[string]stub.Options{
	"plain_252":           {Via: stub.ViaFirmware},
	"plain_254":           {Via: stub.ViaFirmware},
	"plain_257":           {Via: stub.ViaFirmware},
	"plain_262":           {Via: stub.ViaFirmware},
	"all_sections":        {Via: stub.ViaFirmware},
	"no_cmdline":          {Via: stub.ViaFirmware},
	"profiles_default":    {Via: stub.ViaFirmware},
	"profiles_1":          {Via: stub.ViaSystemdBoot, Profile: "1"},
	"profiles_3":          {Via: stub.ViaSystemdBoot, Profile: "3"},
	"profiles_1_override": {Via: stub.ViaSystemdBoot, Profile: "1", Cmdline: new("console=ttyS0 quiet panic=-1 over=ride")},
	"override_sdboot":     {Via: stub.ViaSystemdBoot, Cmdline: new("console=ttyS0 quiet panic=-1 from=sdboot")},
	"addons":              {Via: stub.ViaFirmware},
	"sidecars":            {Via: stub.ViaFirmware},
	"sidecars_252":        {Via: stub.ViaFirmware},
	"smbios":              {Via: stub.ViaFirmware, SMBIOSCmdline: "smb=1 extra=ok"},
}

// sidecarsOf reads the files beside a golden image.
func sidecarsOf(t *testing.T, name string) stub.Sidecars {
	t.Helper()
	dir := filepath.Join("testdata", "golden", name)
	return stub.Sidecars{
		Image:       filesIn(t, filepath.Join(dir, "extra.d")),
		Addons:      filesIn(t, filepath.Join(dir, stub.AddonsDir)),
		Credentials: filesIn(t, filepath.Join(dir, stub.CredentialsDir)),
		Extensions:  filesIn(t, filepath.Join(dir, stub.ExtensionsDir)),
	}
}

func filesIn(t *testing.T, dir string) (files []stub.File) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range slices.Backward(entries) { // the order must not matter
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, stub.File{Name: e.Name(), Content: measure.Bytes(b)})
	}
	return files
}

type golden struct {
	Events []struct {
		PCR     measure.PCR
		Type    uint32
		Digests map[measure.Bank]measure.Digest
		Data    string
	}
	PCRs measure.PCRs
}

func readGolden(t *testing.T, name string) (image []byte, want golden) {
	t.Helper()
	dir := filepath.Join("testdata", "golden", name)
	image, err := os.ReadFile(filepath.Join(dir, "uki.efi"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if len(want.Events) < 8 || len(want.PCRs) != 4 {
		t.Fatalf("%s: %d events, %d banks", name, len(want.Events), len(want.PCRs))
	}
	return image, want
}

func predict(image []byte, opts stub.Options) (*measure.Prediction, error) {
	f, err := uki.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		return nil, err
	}
	b, err := stub.Load(f, opts)
	if err != nil {
		return nil, err
	}
	return measure.Predict(&b.Image, measure.Options{Base: measure.Zero(measure.Banks(), measure.StubPCRs()...)})
}

func TestGolden(t *testing.T) {
	names, err := filepath.Glob("testdata/golden/*/expected.json")
	if err != nil || len(names) != len(started) {
		t.Fatalf("%d golden boots, %d said how to start: %v", len(names), len(started), err)
	}
	for name, opts := range started {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts.Sidecars = sidecarsOf(t, name)
			image, want := readGolden(t, name)
			got, err := predict(image, opts)
			if err != nil {
				t.Fatal(err)
			}
			compareEvents(t, got.Events, want)
			pcrs, err := got.At("")
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range measure.Compare(want.PCRs, pcrs) {
				t.Error(d)
			}
		})
	}
}

func compareEvents(t *testing.T, got []measure.Event, want golden) {
	t.Helper()
	if len(got) != len(want.Events) {
		t.Errorf("%d events, the stub has %d", len(got), len(want.Events))
	}
	for i := range min(len(got), len(want.Events)) {
		g, w := got[i], want.Events[i]
		if g.PCR != w.PCR || uint32(g.Type) != w.Type || hex.EncodeToString(g.Data) != w.Data {
			t.Errorf("event %d: %d %v %x, the stub has %d %v %s", i, g.PCR, g.Type, g.Data, w.PCR, w.Type, w.Data)
		}
		for _, b := range measure.Banks() {
			if !bytes.Equal(g.Digests[b], w.Digests[b]) {
				t.Errorf("event %d (%s): %v %v, the stub has %v", i, g.Description, b, g.Digests[b], w.Digests[b])
			}
		}
	}
}

// TestGoldenEventLog is the second opinion: go-attestation finds the predicted
// events, digest for digest, in the raw log that the firmware wrote.
func TestGoldenEventLog(t *testing.T) {
	algs := map[measure.Bank]attest.HashAlg{measure.SHA1: attest.HashSHA1, measure.SHA256: attest.HashSHA256, measure.SHA384: attest.HashSHA384}
	for name, opts := range started {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts.Sidecars = sidecarsOf(t, name)
			image, _ := readGolden(t, name)
			p, err := predict(image, opts)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(filepath.Join("testdata", "golden", name, "eventlog.bin"))
			if err != nil {
				t.Fatal(err)
			}
			log, err := attest.ParseEventLog(raw)
			if err != nil {
				t.Fatal(err)
			}
			for bank, alg := range algs {
				next := 0
				for _, ev := range log.Events(alg) {
					if n := measure.PCR(ev.Index); (n == 11 || n == 12 || n == 13) && next < len(p.Events) {
						want := p.Events[next]
						if n != want.PCR || !bytes.Equal(ev.Digest, want.Digests[bank]) || !bytes.Equal(ev.Data, want.Data) {
							t.Fatalf("%v event %d: predicted %s, the log has %d %x %x", bank, next, want.Description, n, ev.Digest, ev.Data)
						}
						next++
					}
				}
				if next != len(p.Events) || next == 0 {
					t.Errorf("%v: %d of %d events are in the log", bank, next, len(p.Events))
				}
			}
		})
	}
}

// TestGoldenTampered changes one byte in each measured section and wants
// another PCR 11.
func TestGoldenTampered(t *testing.T) {
	for name, opts := range started {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts.Sidecars = sidecarsOf(t, name)
			image, want := readGolden(t, name)
			f, err := uki.Open(bytes.NewReader(image), int64(len(image)))
			if err != nil {
				t.Fatal(err)
			}
			b, err := stub.Load(f, opts)
			if err != nil {
				t.Fatal(err)
			}
			flipped := 0
			for _, m := range b.Measurements {
				s, ok := m.Content.(*uki.Section)
				if !ok {
					continue
				}
				off, size := s.FileRange()
				tampered := bytes.Clone(image)
				tampered[off+size/2] ^= 0x20
				p, err := predict(tampered, opts)
				if err != nil {
					t.Fatalf("section %s: %v", s.Name, err)
				}
				pcrs, err := p.At("")
				if err != nil {
					t.Fatal(err)
				}
				for bank := range want.PCRs {
					if bytes.Equal(pcrs[bank][11], want.PCRs[bank][11]) {
						t.Errorf("section %s changed, PCR 11 (%v) did not", s.Name, bank)
					}
				}
				flipped++
			}
			if flipped < 4 {
				t.Errorf("only %d sections were measured", flipped)
			}
		})
	}
}
