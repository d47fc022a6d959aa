// Command demo shows a measured kexec in a virtual machine with a software TPM,
// step by step. It is what `make demo` runs; its argument is the mkexec program.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/mkexec/mkexec/cmd/mkexec/internal/vm"
)

func main() {
	if err := demo(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "demo: error:", err)
		os.Exit(2)
	}
}

func say(format string, args ...any) { fmt.Printf("\n"+format+"\n", args...) }

// A machine state is what a prediction and a report have in common.
type pcrs map[string]map[int]string

// predicted is what the demo reads of predict --json.
type predicted struct {
	Cmdline string
	Phases  []struct{ PCRs pcrs }
}

func demo(args []string) error {
	if len(args) != 1 {
		return errors.New("want one argument, the mkexec program")
	}
	program, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	dir, err := vm.Dir()
	if err != nil {
		return err
	}
	a, err := vm.Find(dir)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "mkexec-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	say(`== 1. An image

A Unified Kernel Image of Debian's kernel, a small initrd and the real systemd-stub 257. Its initrd
prints what the kernel says of the TPM, and powers off.`)
	image, err := a.Image(vm.ImageConfig{
		Stub: a.Stub257, Name: "second", Cmdline: vm.Quiet + " from=second", Script: "section second report",
	})
	if err != nil {
		return err
	}
	path := filepath.Join(tmp, "second.efi")
	if err := os.WriteFile(path, image, 0o644); err != nil {
		return err
	}
	fmt.Println("\n$ mkexec inspect second.efi")
	if err := show(args[0], "inspect", path); err != nil {
		return err
	}

	say(`== 2. The prediction

What systemd-stub would measure of it if firmware booted it, and the PCRs after that. No TPM is needed.
    $ mkexec predict --bank=sha1 --bank=sha256 --bank=sha384 --bank=sha512 --json second.efi`)
	cold, err := predict(args[0], path)
	if err != nil {
		return err
	}
	fmt.Println("    PCR 11 (sha256) will be", cold.Phases[0].PCRs["sha256"][11])

	say(`== 3. A measured kexec from a system that was started without a stub

A virtual machine starts a small Linux as a LinuxBoot firmware would: PCRs 11 to 13 are zero. That runs
    $ mkexec boot --no-verify --no-policy second.efi
which extends the TPM as the stub would have, proves it, and jumps. About 15 seconds.`)
	files := map[string]vm.File{"mkexec": {Data: program, Perm: 0o755}, "second.efi": {Data: image, Perm: 0o644}}
	script := "section predicted /predict\nexec /mkexec boot --no-verify --no-policy /second.efi\n"
	files["predict"] = vm.File{Data: []byte("#!/bin/sh\n/mkexec predict --from=tpm --json /second.efi 2>/dev/null\n"), Perm: 0o755}
	files["init"] = vm.Init(script)
	initrd, err := a.Initrd(files)
	if err != nil {
		return err
	}
	sections, err := run(a, vm.Config{Kernel: a.Kernel, Initrd: initrd, Cmdline: vm.Quiet})
	if err != nil {
		return err
	}
	if err := compare("predicted for a firmware boot", cold, sections); err != nil {
		return err
	}

	say(`== 4. A measured kexec from a system that firmware and systemd-stub booted

Now the first system is itself a UKI, booted by UEFI firmware (OVMF) and systemd-stub. Its PCRs are not
zero, so they are chained: mkexec predicts from what the TPM holds,
    $ mkexec predict --from=tpm --json second.efi
and then boots as before. About 30 seconds.`)
	delete(files, "init")
	first, err := a.Image(vm.ImageConfig{Stub: a.Stub257, Name: "first", Cmdline: vm.Quiet + " from=first", Script: script, Files: files})
	if err != nil {
		return err
	}
	sections, err = run(a, vm.Config{ESP: map[string][]byte{"EFI/BOOT/BOOTX64.EFI": first}})
	if err != nil {
		return err
	}
	var chained predicted
	if err := json.Unmarshal([]byte(sections["predicted"]), &chained); err != nil || len(chained.Phases) == 0 {
		return fmt.Errorf("the guest's prediction: %v in %q", err, sections["predicted"])
	}
	if err := compare("predicted in the first system", &chained, sections); err != nil {
		return err
	}
	say(`== Done

Every value that the second kernel reads from the TPM is the one that was predicted before the jump.
Next: mkexec inspect, mkexec predict and mkexec check on an image of your own; see README.md.`)
	return nil
}

// show runs mkexec for a person to see.
func show(program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func predict(program, path string) (*predicted, error) {
	cmd := exec.Command(program, "predict", "--bank=sha1", "--bank=sha256", "--bank=sha384", "--bank=sha512", "--json", path)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var p predicted
	if err := json.Unmarshal(out, &p); err != nil {
		return nil, err
	}
	if len(p.Phases) == 0 {
		return nil, errors.New("predict --json: no phases")
	}
	return &p, nil
}

func run(a *vm.Assets, c vm.Config) (map[string]string, error) {
	start := time.Now()
	r, err := a.Run(context.Background(), c)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, r.Serial)
	}
	fmt.Printf("    (%.0f s)\n", time.Since(start).Seconds())
	sections := map[string]string{}
	for _, s := range vm.Sections(r.Serial) {
		sections[s.Name] = s.Text
	}
	if sections["second"] == "" {
		return nil, fmt.Errorf("the second kernel did not report:\n%s", r.Serial)
	}
	return sections, nil
}

// compare prints what was predicted and what the second kernel says side by side.
func compare(title string, want *predicted, sections map[string]string) error {
	got, err := vm.ParseReport(sections["second"])
	if err != nil {
		return err
	}
	fmt.Printf("\n    %-16s %-34s %-34s\n", "", title, "read by the second kernel")
	differ := 0
	for _, bank := range []string{"sha1", "sha256", "sha384", "sha512"} {
		for _, pcr := range []int{11, 12, 13} {
			w, g := want.Phases[0].PCRs[bank][pcr], got.PCRs[bank][pcr]
			verdict := "equal"
			if w != g || w == "" {
				verdict = "DIFFERENT"
				differ++
			}
			fmt.Printf("    PCR %d %-9s %-34s %-34s %s\n", pcr, bank, shorten(w), shorten(g), verdict)
		}
	}
	fmt.Printf("    command line     %q\n", got.Cmdline)
	if got.Cmdline != want.Cmdline {
		differ++
		fmt.Printf("    predicted        %q\n", want.Cmdline)
	}
	for path, f := range got.Extra {
		fmt.Printf("    %s, mode %s, sha256 %s\n", path, f.Mode, shorten(f.SHA256))
	}
	if differ > 0 {
		return fmt.Errorf("%d values are not what was predicted", differ)
	}
	return nil
}

func shorten(hex string) string {
	if len(hex) <= 32 || strings.Trim(hex, "0") == "" {
		return hex[:min(len(hex), 8)] + "…"
	}
	return hex[:14] + "…" + hex[len(hex)-14:]
}
