// Package tpmtest provides TPMs for tests: swtpm, which is a real one in
// software, and a [Fake] that fails on demand.
package tpmtest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mkexec/mkexec/measure"
)

// startTimeout is how long swtpm may take to start or stop. It takes 20 ms; a
// loaded machine takes longer.
const startTimeout = 30 * time.Second

// A SWTPM is a swtpm process of one test.
type SWTPM struct {
	t      testing.TB
	dir    string
	cmd    *exec.Cmd
	exited chan struct{}
	output *bytes.Buffer // to be read after exited is closed
}

// Start starts a swtpm that has the given PCR banks, or all four if none is
// given, and stops it when the test ends. Without swtpm the test is skipped, or
// fails if the environment's MKEXEC_REQUIRE has the word swtpm.
func Start(t testing.TB, banks ...measure.Bank) *SWTPM {
	t.Helper()
	Require(t, "swtpm")
	// t.TempDir has the name of the test in it; a socket's path may have 107 bytes
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		t.Fatal(err)
	}
	s := &SWTPM{t: t, dir: dir}
	t.Cleanup(func() {
		s.stop()
		os.RemoveAll(dir)
	})
	s.start()
	if len(banks) > 0 {
		s.allocate(banks)
		s.Reset()
	}
	return s
}

// Require skips the test if the program is not installed, or fails it if the
// environment's MKEXEC_REQUIRE, words split by commas, has its name.
func Require(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("MKEXEC_REQUIRE"), ","), program) {
		t.Fatalf("%s: not installed, but MKEXEC_REQUIRE has it", program)
	}
	t.Skipf("%s: not installed", program) // Require: fails instead if MKEXEC_REQUIRE has it
}

// Device returns what --tpm2-device= takes.
func (s *SWTPM) Device() string { return "swtpm:path=" + s.socket() }

func (s *SWTPM) socket() string { return filepath.Join(s.dir, "tpm") }

// Reset does what a reboot through firmware does: an orderly shutdown and a cold
// boot. PCRs are zero after it, NV memory and persistent keys are kept. (A kexec
// is doing nothing at all.)
func (s *SWTPM) Reset() {
	s.t.Helper()
	s.command("80010000000c000001450000") // TPM2_Shutdown(CLEAR)
	s.stop()
	s.start()
}

// start starts swtpm and waits until it takes commands.
func (s *SWTPM) start() {
	s.t.Helper()
	s.output = new(bytes.Buffer)
	s.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+s.dir,
		"--server", "type=unixio,path="+s.socket(),
		"--ctrl", "type=unixio,path="+filepath.Join(s.dir, "ctrl"),
		"--flags", "not-need-init,startup-clear")
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		s.t.Fatal(err)
	}
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		cmd.Wait()
		close(exited)
	}(s.cmd, s.exited)

	for deadline := time.Now().Add(startTimeout); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", s.socket())
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-s.exited:
			s.t.Fatalf("swtpm: does not start: %s", s.output)
		default:
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("swtpm: does not take commands: %v", err)
		}
	}
}

// stop ends swtpm if it runs, by force if it must.
func (s *SWTPM) stop() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(startTimeout):
		s.cmd.Process.Kill()
		<-s.exited
	}
	s.cmd = nil
	os.Remove(s.socket())
}

// allocate makes the banks the only ones from the next cold boot on
// (TPM2_PCR_Allocate, TPM 2.0 Library Part 3, 22.5).
func (s *SWTPM) allocate(banks []measure.Bank) {
	s.t.Helper()
	list := fmt.Sprintf("%08x", len(measure.Banks()))
	for _, b := range measure.Banks() {
		mask := "000000"
		if slices.Contains(banks, b) {
			mask = "ffffff"
		}
		list += fmt.Sprintf("%04x03%s", uint16(b), mask)
	}
	// platform handle, size of the authorizations, TPM_RS_PW with an empty password
	body := "4000000c" + "00000009" + "40000009" + "0000" + "00" + "0000" + list
	response := s.command(fmt.Sprintf("8002%08x0000012b", 10+len(body)/2) + body)
	// header, size of the parameters, allocationSuccess
	if len(response) < 15 || response[14] != 1 {
		s.t.Fatalf("swtpm: banks %v: TPM2_PCR_Allocate answers %x", banks, response)
	}
}

// command sends a command, in hexadecimal, and returns a response without error.
func (s *SWTPM) command(text string) []byte {
	s.t.Helper()
	command, err := hex.DecodeString(text)
	if err != nil {
		s.t.Fatal(err)
	}
	conn, err := net.Dial("unix", s.socket())
	if err != nil {
		s.t.Fatalf("swtpm: %v", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(startTimeout))
	header := make([]byte, 10)
	if _, err = conn.Write(command); err == nil {
		_, err = io.ReadFull(conn, header)
	}
	if err != nil {
		s.t.Fatalf("swtpm: %s: %v", text, err)
	}
	rest := make([]byte, max(binary.BigEndian.Uint32(header[2:]), 10)-10)
	if _, err := io.ReadFull(conn, rest); err != nil {
		s.t.Fatalf("swtpm: %s: %v", text, err)
	}
	if rc := binary.BigEndian.Uint32(header[6:]); rc != 0 {
		s.t.Fatalf("swtpm: %s: response code 0x%x", text, rc)
	}
	return append(header, rest...)
}
