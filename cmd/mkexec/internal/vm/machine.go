//go:build linux

package vm

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config says what a machine has and how it starts.
type Config struct {
	// ESP are the files of the EFI system partition by path. The firmware, OVMF, starts EFI/BOOT/BOOTX64.EFI.
	ESP map[string][]byte
	// Tried are more partitions like that, which the firmware tries before it, in their order.
	Tried []map[string][]byte

	// SecureBoot turns Secure Boot on: the firmware starts what Assets.SnakeoilKey signed, and nothing else.
	SecureBoot bool
	// Revoked, with SecureBoot, is the Authenticode digest, SHA-256, of the one image that dbx forbids.
	Revoked []byte

	// Kernel, if not empty, is the path of a kernel that a BIOS starts with the initrd and the command
	// line: a small Linux that came up without EFI and without a stub.
	Kernel  string
	Initrd  []byte
	Cmdline string

	Memory  int           // MiB; 0: 1024
	TPM     string        // directory for the state of the TPM; "": a new TPM
	Resets  bool          // a reset is a new start through firmware; false: it ends the run
	Until   string        // the run ends where this appears on the console; "": where the machine powers off or resets
	Timeout time.Duration // 0: 5 minutes
	Args    []string      // more arguments for QEMU
}

// Result is what came of a run.
type Result struct {
	Serial string // everything on the serial console
	Took   time.Duration
}

// Run runs a virtual machine with a software TPM to its end. Also with an error the result has what the console said.
func (a *Assets) Run(ctx context.Context, c Config) (Result, error) {
	dir, err := os.MkdirTemp("", "mkexec-vm-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)
	args, err := a.arguments(c, dir)
	if err != nil {
		return Result{}, err
	}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = 5 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	stop, chip, err := startTPM(ctx, c.TPM, dir)
	if err != nil {
		return Result{}, err
	}
	defer stop()

	seen, found := context.WithCancel(ctx)
	defer found()
	serial := &console{until: c.Until, found: found}
	var complaints bytes.Buffer
	cmd := command(seen, qemu, args...)
	cmd.ExtraFiles = []*os.File{chip}
	cmd.Stdout = serial
	cmd.Stderr = &complaints
	start := time.Now()
	err = cmd.Start()
	chip.Close()
	if err != nil {
		return Result{}, err
	}
	err = cmd.Wait()
	r := Result{serial.String(), time.Since(start)}
	switch {
	case serial.done:
		return r, nil
	case ctx.Err() != nil:
		return r, fmt.Errorf("vm: %w after %v; its last words: %q", ctx.Err(), timeout, tail(r.Serial))
	case err != nil:
		return r, fmt.Errorf("%s: %w: %s", qemu, err, tail(complaints.String()))
	case c.Until != "":
		return r, fmt.Errorf("vm: powered off before %q; its last words: %q", c.Until, tail(r.Serial))
	}
	return r, nil
}

// arguments returns those of QEMU; the files they name are made in dir. The TPM's socket is descriptor 3.
func (a *Assets) arguments(c Config, dir string) ([]string, error) {
	memory := c.Memory
	if memory == 0 {
		memory = 1024
	}
	args := []string{
		// One CPU of an old kind: more hang at times over a kexec without KVM, and KVM is not everywhere.
		"-machine", "q35,accel=tcg", "-cpu", "Nehalem", "-smp", "1", "-m", fmt.Sprint(memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
		"-chardev", "socket,id=tpm,fd=3", "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0",
	}
	if !c.Resets {
		args = append(args, "-no-reboot")
	}
	if c.Kernel != "" {
		initrd := filepath.Join(dir, "initrd")
		if err := os.WriteFile(initrd, c.Initrd, 0o600); err != nil {
			return nil, err
		}
		args = append(args, "-kernel", c.Kernel, "-initrd", initrd, "-append", c.Cmdline)
	} else {
		firmware, err := a.firmware(c, dir)
		if err != nil {
			return nil, err
		}
		args = append(args, firmware...)
	}
	partitions := c.Tried
	if c.ESP != nil {
		partitions = append(slices.Clone(partitions), c.ESP)
	}
	for i, files := range partitions {
		id := fmt.Sprint("esp", i+1)
		esp := filepath.Join(dir, id)
		for name, data := range files {
			if !fs.ValidPath(name) {
				return nil, fmt.Errorf("esp: %q: not a path in it", name)
			}
			file := filepath.Join(esp, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				return nil, err
			}
			if err := os.WriteFile(file, data, 0o600); err != nil {
				return nil, err
			}
		}
		// QEMU makes a FAT file system of the directory. Writing to such a one loses data, so what is written, such
		// as the boot counters of systemd-boot, goes to a snapshot.
		args = append(args,
			"-drive", "if=none,id="+id+",format=raw,snapshot=on,file=fat:"+esp,
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,bootindex=%d", id, i+1))
	}
	return append(args, c.Args...), nil
}

// firmware returns QEMU's arguments for OVMF. The variables are a copy in dir.
func (a *Assets) firmware(c Config, dir string) ([]string, error) {
	code, from := a.Code, a.Vars
	if c.SecureBoot {
		code, from = a.SecureCode, a.SecureVars
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return nil, err
	}
	if c.Revoked != nil {
		if err := revoke(data, c.Revoked); err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
	}
	vars := filepath.Join(dir, "vars.fd")
	if err := os.WriteFile(vars, data, 0o600); err != nil {
		return nil, err
	}
	args := []string{
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + code,
		"-drive", "if=pflash,unit=1,format=raw,file=" + vars,
	}
	if c.SecureBoot { // this OVMF keeps its variables in system management mode, and goes without sleep states
		args = append(args, "-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
	}
	return args, nil
}

// startTPM starts a software TPM and returns the socket that controls it. A pair of sockets needs no path and no
// waiting for one, and ends the TPM with the machine.
func startTPM(ctx context.Context, state, dir string) (stop func(), machine *os.File, err error) {
	if state == "" {
		state = filepath.Join(dir, "tpm")
		if err := os.Mkdir(state, 0o700); err != nil {
			return nil, nil, err
		}
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	machine, own := os.NewFile(uintptr(pair[0]), "tpm"), os.NewFile(uintptr(pair[1]), "swtpm")
	defer own.Close()
	cmd := command(ctx, swtpm, "socket", "--tpm2", "--tpmstate", "dir="+state, "--ctrl", "type=unixio,clientfd=3", "--terminate")
	cmd.ExtraFiles = []*os.File{own}
	if err := cmd.Start(); err != nil {
		machine.Close()
		return nil, nil, err
	}
	return func() {
		// It ends by itself when the machine has gone, its state written.
		late := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		defer late.Stop()
		cmd.Wait()
	}, machine, nil
}

// command is one that dies with ctx, and with this process.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// console keeps what is written to it and calls found at the words to wait for.
type console struct {
	until string
	found func()

	mu   sync.Mutex
	text bytes.Buffer
	done bool
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := max(0, c.text.Len()-len(c.until))
	c.text.Write(p)
	if c.until != "" && !c.done && bytes.Contains(c.text.Bytes()[from:], []byte(c.until)) {
		c.done = true
		c.found()
	}
	return len(p), nil
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// tail returns the end of s.
func tail(s string) string {
	s = strings.TrimSpace(s)
	return s[max(0, len(s)-2000):]
}
