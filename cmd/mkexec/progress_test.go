package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal returns the two ends of a pseudo terminal.
func openTerminal(t *testing.T) (program, person *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return program, person
}

// TestProgress does not prove how the bar looks on a real terminal.
func TestProgress(t *testing.T) {
	program, person := openTerminal(t)
	bar := startProgress(program, "hashing", 200)
	bar.add(50)
	time.Sleep(700 * time.Millisecond)
	bar.finish()
	got := make([]byte, 4096)
	n, err := person.Read(got)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(got[:n]); !strings.Contains(text, "\rhashing [#######                       ]  25%") {
		t.Errorf("the terminal shows %q", text)
	}
}

// TestNoProgress: nothing is drawn for quick work, nor where there is no terminal.
func TestNoProgress(t *testing.T) {
	program, person := openTerminal(t)
	bar := startProgress(program, "hashing", 200)
	bar.finish()
	if _, err := program.WriteString("end"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4096)
	n, err := person.Read(got)
	if err != nil || string(got[:n]) != "end" {
		t.Errorf("the terminal shows %q, %v", got[:n], err)
	}

	var file bytes.Buffer
	bar = startProgress(&file, "hashing", 200)
	time.Sleep(600 * time.Millisecond)
	bar.finish()
	if file.Len() > 0 {
		t.Errorf("without a terminal: %q", file.String())
	}
}
