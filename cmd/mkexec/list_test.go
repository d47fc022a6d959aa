package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/fstest"
)

// variable is an EFI variable as efivarfs has it.
func variable(value string) *fstest.MapFile {
	b := []byte{6, 0, 0, 0}
	for _, r := range value + "\x00" {
		b = append(b, byte(r), 0)
	}
	return &fstest.MapFile{Data: b}
}

// TestListRunning: what the EFI variables say, on a machine that is all in
// memory. The scripts show the rest; measure/bls shows that this is what
// systemd-boot says.
func TestListRunning(t *testing.T) {
	t.Parallel()
	const efivars, guid = "sys/firmware/efi/efivars/", "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	conf := &fstest.MapFile{Data: []byte("linux /k\n")}
	sys := &system{stderr: new(bytes.Buffer), root: fstest.MapFS{
		"proc/self/mountinfo":                  {Data: []byte("30 26 254:15 / /efi rw - vfat /dev/vda15 rw\n")},
		"efi/k":                                {Data: []byte("kernel")},
		"efi/loader/entries/a.conf":            conf,
		"efi/loader/entries/b.conf":            conf,
		efivars + "LoaderEntrySelected" + guid: variable("a.conf"),
		efivars + "LoaderEntryDefault" + guid:  variable("b.*"),
	}}
	var out bytes.Buffer
	sys.stdout = &out
	if status := run([]string{"list"}, sys); status != exitYes {
		t.Fatal(status, sys.stderr)
	}
	for _, want := range []string{"b.conf  -      type1  0        -      default\n", "a.conf  -      type1  0        -      running\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	e, err := defaultEntry(sys, "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	if e.entry.ID != "b.conf" || e.entry.Linux != "k" || e.dir != "/efi" {
		t.Errorf("%+v", e)
	}
}

// TestDefaultEntryErrors: where there is no default, the error says where to look.
func TestDefaultEntryErrors(t *testing.T) {
	t.Parallel()
	mounts := &fstest.MapFile{Data: []byte("30 26 254:15 / /efi rw - vfat /dev/vda15 rw\n")}
	for hint, root := range map[string]fstest.MapFS{
		"mkexec list": {"proc/self/mountinfo": mounts, "efi/x": {}},
		"--esp=DIR":   {"proc/self/mountinfo": {}},
	} {
		_, err := defaultEntry(&system{root: root}, "", "")
		if err == nil || hintFor(err) != hint {
			t.Errorf("%v, hint %q; want %q", err, hintFor(err), hint)
		}
	}
}
