package main

import (
	"bytes"
	"crypto/x509"
	"os"
	"slices"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
	"github.com/mkexec/mkexec/policy/trust"
)

// Which PCRs of firmware stay the same at a cold boot of another image, by logs
// of real machines. It does not prove that firmware measures nothing else that
// depends on the image: the rules are those of EDK2, shim and systemd-stub.

func firmwareLog(t *testing.T, name string) *eventlog.Firmware {
	t.Helper()
	b, err := os.ReadFile("../../measure/eventlog/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.ParseFirmware(b)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func TestColdPCRs(t *testing.T) {
	t.Parallel()
	// Microsoft vouched for shim and, by its name "Shim", Canonical for what shim started
	secure := firmwareLog(t, "go-attestation/sb_cert_eventlog")
	var authorities []*x509.Certificate
	for _, ev := range secure.Events {
		if ev.PCR != 7 || ev.Type != eventVariableAuthority {
			continue
		}
		der := ev.Data[bytes.Index(ev.Data, []byte{0x30, 0x82}):]
		c, err := x509.ParseCertificate(der[:4+int(der[2])<<8+int(der[3])])
		if err != nil {
			t.Fatal(err)
		}
		authorities = append(authorities, c)
	}
	if len(authorities) != 3 || authorities[0].Equal(authorities[2]) {
		t.Fatalf("%d authorities", len(authorities))
	}
	by := func(c *x509.Certificate) *judgement {
		return &judgement{Verdict: &trust.Verdict{Trusted: true, Anchor: &trust.Anchor{Source: "db", Certificate: c}}}
	}
	all := []measure.PCR{0, 1, 2, 3, 5, 6, 7, 14}
	without := func(n measure.PCR) []measure.PCR {
		return slices.DeleteFunc(slices.Clone(all), func(m measure.PCR) bool { return m == n })
	}
	smbios := firmwareLog(t, "vm/v262.bin") // Secure Boot is off
	for _, test := range []struct {
		name   string
		log    *eventlog.Firmware
		smbios bool
		j      *judgement
		want   []measure.PCR
	}{
		{"the same signer", secure, false, by(authorities[2]), all},
		{"the signer of shim", secure, false, by(authorities[0]), without(7)},
		{"by its digest", secure, false, &judgement{Verdict: &trust.Verdict{Trusted: true, Anchor: &trust.Anchor{Source: "db"}}}, without(7)},
		{"not trusted", secure, false, &judgement{Verdict: &trust.Verdict{Reason: trust.ReasonUnsigned}}, without(7)},
		{"not a PE file", secure, false, &judgement{}, without(7)},
		{"not looked at", secure, false, nil, without(7)},
		{"the stub measures the SMBIOS, and none was", secure, true, by(authorities[2]), without(1)},
		{"both", smbios, true, nil, all},
		{"the stub does not, and one did", smbios, false, nil, without(1)},
	} {
		got := coldPCRs(test.log, test.smbios, test.j)
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}
