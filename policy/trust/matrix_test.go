package trust_test

// The same verdicts as sbverify and osslsigncode on files made by other tools,
// with every difference named. This does not prove that firmware agrees: the
// rules that are neither sbverify's nor osslsigncode's are from its source.

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/policy/trust"
)

// Why a tool's verdict may differ.
const (
	noPartial = "osslsigncode wants the chain to end in a certificate that signs itself"
	embedded  = "sbverify trusts the intermediate certificates that the image brings along"
	purpose   = "firmware and shim do not look at the purpose"
	expiry    = "firmware and shim do not look at the time"
	oneEntry  = "osslsigncode reads tables with one entry only"
	sha256    = "sbverify computes SHA-256 only"
	modules   = "the tools do not know shim's rule on module signing"
	weak      = "the tools take what is too weak"
)

// matrix has the verdict for each image and anchor of testdata/matrix.txt.
var matrix = []struct {
	image, anchor string
	reason        trust.Reason // "" is trusted
	// why sbverify or osslsigncode say otherwise; "" if they must not
	sbverify, osslsigncode string
}{
	{"unsigned", "self", trust.ReasonUnsigned, "", ""},
	{"self", "self", "", "", ""},
	{"self", "other", trust.ReasonUntrusted, "", ""},
	{"self", "ca", trust.ReasonUntrusted, "", ""},
	{"direct", "ca", "", "", ""},
	{"direct", "direct", "", "", noPartial},
	{"direct", "self", trust.ReasonUntrusted, "", ""},
	{"chain", "ca", "", "", ""},
	{"chain", "inter", "", "", noPartial},
	{"chain", "leaf", "", "", noPartial},
	{"chain", "self", trust.ReasonUntrusted, embedded, ""},
	{"nointer", "ca", trust.ReasonUntrusted, "", ""},
	{"nointer", "inter", "", "", noPartial},
	{"nointer", "leaf", "", "", noPartial},
	{"badchain", "ca", trust.ReasonUntrusted, "", ""},
	{"badchain", "badleaf", "", purpose, noPartial},
	{"nopurpose", "ca", "", purpose, purpose},
	{"nopurpose", "nopurpose", "", purpose, purpose},
	{"modsign", "modsign", trust.ReasonUntrusted, modules, modules},
	{"expired", "ca", "", "", expiry},
	{"expired", "expired", "", "", expiry},
	{"rsa1024", "rsa1024", trust.ReasonWeakKey, weak, weak},
	{"dual", "self", "", "", oneEntry},
	{"dual", "direct", "", "", oneEntry},
	{"dual", "ca", "", "", oneEntry},
	{"dual", "other", trust.ReasonUntrusted, "", ""},
	{"tail", "ca", "", "", ""},
	{"ec", "ec", "", "", ""},
	{"ec", "self", trust.ReasonUntrusted, "", ""},
	{"sha1", "self", trust.ReasonWeakDigest, "", weak},
	{"sha384", "self", "", sha256, ""},
	{"sha512", "self", "", sha256, ""},
	{"tampered", "self", trust.ReasonDigestMismatch, "", ""},
	{"forged", "self", trust.ReasonBadSignature, "", ""},
	{"checksum", "self", "", "", ""},
	{"stripped", "self", trust.ReasonUnsigned, "", ""},
	{"padded", "self", cannotTell, "", ""},
	{"appended", "self", cannotTell, "", ""},
	{"transplant", "self", trust.ReasonDigestMismatch, "", ""},
}

// cannotTell stands for an error.
const cannotTell trust.Reason = "error"

func TestMatrix(t *testing.T) {
	t.Parallel()
	checkMatrix(t, recorded, true)
}

// TestMatrixLive makes everything anew.
func TestMatrixLive(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"openssl", "sbsign", "osslsigncode", "cert-to-efi-sig-list", "faketime"} {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		if slices.Contains(strings.Split(os.Getenv("MKEXEC_REQUIRE"), ","), "sbsigntool") {
			t.Fatalf("%s: not installed, but MKEXEC_REQUIRE has sbsigntool", program)
		}
		t.Skipf("%s: not installed", program)
	}
	dir := t.TempDir()
	if out, err := exec.Command("testdata/make.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	checkMatrix(t, dir, osslsigncodeVerifies(t))
}

// osslsigncodeVerifies tells whether it can be asked: 2.5, of Debian bookworm, finds
// every signature of sbsign's invalid. The recorded verdicts are those of 2.9.
func osslsigncodeVerifies(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command("osslsigncode", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(out), "osslsigncode %d.%d", &major, &minor); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return major > 2 || major == 2 && minor > 5
}

// checkMatrix compares our verdicts on all that is in dir with those of the tools.
func checkMatrix(t *testing.T, dir string, osslsigncode bool) {
	verdicts := map[string]string{}
	s := bufio.NewScanner(bytes.NewReader(read(t, dir, "verdicts.txt")))
	for s.Scan() {
		f := strings.SplitN(s.Text(), " ", 3)
		verdicts[f[0]+" "+f[1]] = f[2]
	}
	if len(verdicts) != len(matrix) {
		t.Errorf("%d verdicts, %d rows", len(verdicts), len(matrix))
	}
	for _, m := range matrix {
		pair := m.image + " " + m.anchor
		t.Run(pair, func(t *testing.T) {
			opts := trust.Options{}
			opts.Anchors = append(opts.Anchors, certificate(t, dir, m.anchor+".pem"))
			f := open(t, read(t, dir, m.image+".efi"))
			got := cannotTell
			v, err := trust.Check(f, &trust.Store{}, opts)
			if err == nil {
				got = v.Reason
				if v.Trusted != (got == "") {
					t.Errorf("trusted %v, reason %q", v.Trusted, got)
				}
			}
			if got != m.reason {
				t.Errorf("%q, want %q (%v)", got, m.reason, err)
			}
			yes := m.reason == ""
			var s, o int
			if _, err := fmt.Sscanf(verdicts[pair], "sbverify=%d osslsigncode=%d", &s, &o); err != nil {
				t.Fatal(err)
			}
			if same := yes == (s == 0); same != (m.sbverify == "") {
				t.Errorf("trusted %v, sbverify says %d; want a difference because %q", yes, s, m.sbverify)
			}
			if same := yes == (o == 0); osslsigncode && same != (m.osslsigncode == "") {
				t.Errorf("trusted %v, osslsigncode says %d; want a difference because %q", yes, o, m.osslsigncode)
			}

			// the same through db, and through the kernel's eyes
			store := &trust.Store{}
			store.DB.Certificates = append(store.DB.Certificates, opts.Anchors[0].Raw)
			v2, err2 := trust.Check(f, store, trust.Options{})
			if (err == nil) != (err2 == nil) || err == nil && (v2.Reason != v.Reason || v2.Trusted && v2.Anchor.Source != "db") {
				t.Errorf("through db: %+v, %v", v2, err2)
			}
			if k, err := trust.CheckKernel(f, store, trust.Options{}); err == nil && pair != "dual direct" && pair != "dual ca" && k.Reason != m.reason {
				t.Errorf("for the kernel: %q", k.Reason)
			}
		})
	}
}

// TestRecorded compares the rows with the list that make.sh uses.
func TestRecorded(t *testing.T) {
	t.Parallel()
	var rows strings.Builder
	for _, m := range matrix {
		fmt.Fprintf(&rows, "%s %s\n", m.image, m.anchor)
	}
	if got := string(read(t, filepath.Dir(recorded), "matrix.txt")); got != rows.String() {
		t.Errorf("matrix.txt has\n%s", got)
	}
}
