package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/mkexec/mkexec/cmd/mkexec/internal/vm"
)

func TestScratch(t *testing.T) {
	for _, c := range []struct{ n string; stub, boot int; conf map[string]string }{
		{"type2-257", 1, 1, map[string]string{"loader/loader.conf": "timeout 0\n"}},
		{"type2-257-def", 1, 1, map[string]string{"loader/loader.conf": "timeout 0\ndefault x.efi\n", "loader/entries/z.conf": "title Z\nsort-key a\nefi /EFI/Linux/x+3-0.efi\noptions from=z\n"}},
		{"efi-@1-257", 1, 1, map[string]string{"loader/loader.conf": "timeout 0\ndefault p.conf\n", "loader/entries/p.conf": "title P\nefi /EFI/Linux/x+3-0.efi\noptions @1 foo=bar\n"}},
		{"type2-252", 0, 0, map[string]string{"loader/loader.conf": "timeout 0\n"}},
		{"type2-252-257", 1, 0, map[string]string{"loader/loader.conf": "timeout 0\n"}},
		{"type2-262", 2, 2, map[string]string{"loader/loader.conf": "timeout 0\n"}},
	} {
		t.Run(c.n, func(t *testing.T) {
			t.Parallel()
			rel := systemdReleases(t)
			m := newVMImages(t, func(*vm.Assets) string { return rel[c.stub].stub })
			image, err := m.assets.Image(vm.ImageConfig{
				Stub: rel[c.stub].stub, Name: "second", Cmdline: vm.Quiet, Script: witness + `
vars() { ls /sys/firmware/efi/efivars | grep 4a67b082; for v in LoaderEntrySelected LoaderEntries StubImageIdentifier LoaderInfo LoaderBootCountPath; do echo; echo $v; tr -d '\000' </sys/firmware/efi/efivars/$v-*; done; }
section vars vars
`})
			if err != nil { t.Fatal(err) }
			boot, _ := os.ReadFile(rel[c.boot].boot)
			esp := map[string][]byte{"EFI/BOOT/BOOTX64.EFI": boot, "EFI/Linux/x+3-0.efi": image, "EFI/Linux/x.efi.extra.d/a.cred": []byte("beside x"),"EFI/Linux/x+3-0.efi.extra.d/a.cred": []byte("beside x+3-0"),"EFI/Linux/x+2-1.efi.extra.d/a.cred": []byte("beside x+2-1")}
			for n, d := range c.conf { esp[n] = []byte(d) }
			got := m.run(t, vm.Config{ESP: esp})
			fmt.Println("=====", c.n)
			r := reportOf(t, got, "second")
			fmt.Println(got["vars"], "\n", r.Cmdline, r.Extra, r.PCRs["sha1"])
			for p, ev := range firmwareEvents(t, got) {
				if p == 11 { continue }
				for _, e := range ev { fmt.Printf("%d %v %q %v\n", p, e.Type, e.Description, e.Digests[4]) }
			}
		})
	}
}
