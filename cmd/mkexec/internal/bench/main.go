// Command bench measures mkexec side by side with its peers: openssl dgst for
// one bank, systemd-measure for all of them. It is what `make bench` runs; its
// argument is the mkexec program. Times are the best of several runs, wall
// clock; memory is the peak resident set of the process.
package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// imageSize is that of a UKI with a fat initrd, in bytes.
const imageSize = 300 << 20

func main() {
	if err := bench(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(2)
	}
}

func bench(args []string) error {
	if len(args) == 2 && args[0] == "write-images" {
		return writeImages(args[1])
	}
	if len(args) != 1 {
		return errors.New("want one argument, the mkexec program")
	}
	mkexec := args[0]
	tmp, err := os.MkdirTemp("", "mkexec-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	path := func(name string) string { return filepath.Join(tmp, name) }
	// In a process of its own: a child's peak memory begins with its parent's.
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := exec.Command(self, "write-images", tmp).Run(); err != nil {
		return fmt.Errorf("write images: %w", err)
	}

	image, sections := path("large.efi"), []string{"--linux=" + path("linux"), "--initrd=" + path("initrd"), "--cmdline=" + path("cmdline")}
	banks := []string{"--bank=sha1", "--bank=sha256", "--bank=sha384", "--bank=sha512"}
	row("a UKI of 300 MB", "", "", "")
	row("", "best", "median", "peak memory")
	run := func(what string, runs int, argv ...string) error { return measure(what, runs, argv) }
	if err := errors.Join(
		run("openssl dgst -sha256", 7, "openssl", "dgst", "-sha256", image),
		run("mkexec predict --bank=sha256", 7, mkexec, "predict", "--bank=sha256", image),
		run("mkexec predict --bank=sha256 --json", 7, mkexec, "predict", "--bank=sha256", "--json", image),
	); err != nil {
		return err
	}
	if peer := findSystemdMeasure(); peer != "" {
		argv := append([]string{peer, "calculate"}, append(sections, banks...)...)
		if err := run("systemd-measure calculate, four banks", 5, argv...); err != nil {
			return err
		}
	} else {
		row("systemd-measure calculate, four banks", "not installed", "", "")
	}
	all := append([]string{mkexec, "predict"}, banks...)
	return errors.Join(
		run("mkexec predict, four banks", 5, append(all, image)...),
		run("mkexec inspect", 20, mkexec, "inspect", image),
		run("mkexec --version", 50, mkexec, "--version"),
	)
}

func findSystemdMeasure() string {
	for _, p := range []string{os.Getenv("SYSTEMD_MEASURE"), "/usr/lib/systemd/systemd-measure", "/lib/systemd/systemd-measure"} {
		if _, err := os.Stat(p); p != "" && err == nil {
			return p
		}
	}
	return ""
}

// writeImages writes a large UKI, and its sections as files of their own.
func writeImages(dir string) error {
	path := func(name string) string { return filepath.Join(dir, name) }
	data := make([]byte, imageSize-(14<<20))
	if _, err := io.ReadFull(rand.NewChaCha8([32]byte{}), data); err != nil {
		return err
	}
	linux, cmdline := data[:14<<20], []byte("console=ttyS0")
	image, err := ukitest.Build(ukitest.Minimal("257.13-1"),
		ukitest.Section{Name: ".osrel", Data: []byte("ID=bench\n")},
		ukitest.Section{Name: ".cmdline", Data: cmdline},
		ukitest.Section{Name: ".pcrsig", Data: []byte("{}")},
		ukitest.Section{Name: ".linux", Data: linux},
		ukitest.Section{Name: ".initrd", Data: data})
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(path("large.efi"), image, 0o600), os.WriteFile(path("linux"), linux, 0o600),
		os.WriteFile(path("initrd"), data, 0o600), os.WriteFile(path("cmdline"), cmdline, 0o600))
}

// measure runs a command several times and prints a row.
func measure(what string, runs int, argv []string) error {
	var times []time.Duration
	var memory int64
	for range runs + 1 { // the first fills the caches
		cmd := exec.Command(argv[0], argv[1:]...)
		start := time.Now()
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%v: %w", argv, err)
		}
		times = append(times, time.Since(start))
		memory = max(memory, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	}
	times = times[1:]
	slices.Sort(times)
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
	row(what, ms(times[0]), ms(times[len(times)/2]), fmt.Sprintf("%.1f MB", float64(memory)/1024))
	return nil
}

func row(cells ...string) {
	fmt.Printf("%-40s %14s %14s %14s\n", cells[0], cells[1], cells[2], cells[3])
}
