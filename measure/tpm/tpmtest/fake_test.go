package tpmtest_test

// The fake answers as swtpm does. It does not prove that their counters of PCR
// updates count the same, that a refused command gets the same response code
// (it need only be refused), or anything about commands that the fake lacks.

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
)

func TestFakeAnswersAsSWTPM(t *testing.T) {
	t.Parallel()
	const (
		password = "00000009" + "40000009" + "0000" + "01" + "0000"
		read     = "0000017e"
		extend   = "00000182"
	)
	sha1, sha256 := "0004"+strings.Repeat("11", 20), "000b"+strings.Repeat("22", 32)
	for _, banks := range [][]measure.Bank{{measure.SHA256}, {measure.SHA1, measure.SHA384}, measure.Banks()} {
		t.Run(fmt.Sprint(banks), func(t *testing.T) {
			t.Parallel()
			real, err := tpm.Open(tpmtest.Start(t, banks...).Device(), tpm.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer real.Close()
			fake := tpmtest.NewFake(banks...)
			for _, b := range measure.Banks() { // swtpm lists inactive banks too
				if fake.PCRs()[b] == nil {
					fake.Allocate(uint16(b))
				}
			}
			for _, test := range []struct {
				name, tag, body string
				refused         bool
			}{
				{"read", "8001", read + "00000001" + "000b03000800", false},
				{"read eight at most", "8001", read + "00000002" + "000403ffff00" + "000b03ffff00", false},
				{"read a bank that may be inactive", "8001", read + "00000002" + "000c03003800" + "000d03000800", false},
				{"read nothing", "8001", read + "00000000", false},
				{"read, selection too long", "8001", read + "00000001" + "000b0300080000", true},
				{"read, selection missing", "8001", read + "00000002" + "000b03000800", true},
				{"extend one bank", "8002", extend + "0000000b" + password + "00000001" + sha256, false},
				{"extend two banks", "8002", extend + "0000000c" + password + "00000002" + sha1 + sha256, false},
				{"extend no bank", "8002", extend + "0000000d" + password + "00000000", false},
				{"extend without authorization", "8001", extend + "0000000b" + "00000001" + sha256, true},
				{"extend, digest short", "8002", extend + "0000000b" + password + "00000001" + sha256[:66], true},
				{"extend, digest missing", "8002", extend + "0000000b" + password + "00000002" + sha256, true},
				{"extend, byte too many", "8002", extend + "0000000b" + password + "00000001" + sha256 + "00", true},
				{"extend, unknown algorithm", "8002", extend + "0000000b" + password + "00000001" + "7777" + sha256[4:], true},
				{"extend PCR 24", "8002", extend + "00000018" + password + "00000001" + sha256, true},
				{"read what was extended", "8001", read + "00000004" + "000403003800" + "000b03003800" + "000c03003800" + "000d03003800", false},
				{"other capability", "8001", "0000017a" + "00000077" + "00000000" + "00000001", true},
				{"unknown command", "8001", "00007777", true},
			} {
				command, err := hex.DecodeString(fmt.Sprintf("%s%08x%s", test.tag, 6+len(test.body)/2, test.body))
				if err != nil {
					t.Fatal(err)
				}
				want, err := real.Send(command)
				if err != nil {
					t.Fatal(err)
				}
				got, err := fake.Send(command)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range [][]byte{want, got} {
					if refused := binary.BigEndian.Uint32(r[6:]) != 0; refused != test.refused {
						t.Errorf("%s: refused is %v: %x", test.name, refused, r)
					}
					if strings.HasPrefix(test.body, read) && len(r) >= 14 {
						clear(r[10:14]) // the counter
					}
				}
				if !test.refused && !bytes.Equal(got, want) {
					t.Errorf("%s:\n fake %x\nswtpm %x", test.name, got, want)
				}
			}
			banksOf := func(d *tpm.Device) string {
				banks, err := d.Banks()
				return fmt.Sprint(banks, err)
			}
			if got, want := banksOf(tpm.New(fake, tpm.Options{})), banksOf(real); got != want {
				t.Errorf("banks %s, swtpm %s", got, want)
			}
		})
	}
}
