package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The manual page and the README are written by hand; these tests hold them
// against the program. They do not prove that what they say is true.

// walk calls f for every verb and every flag that is ours.
func walk(f func(verb *cobra.Command, fl *pflag.Flag)) {
	root := newRoot(&system{}, new(bytes.Buffer))
	for _, c := range root.Commands() {
		c.LocalFlags().VisitAll(func(fl *pflag.Flag) {
			if fl.Name != "help" {
				f(c, fl)
			}
		})
	}
}

func TestManNamesEveryFlag(t *testing.T) {
	page, err := os.ReadFile("mkexec.8")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(page), `\-`, "-")
	_, options, ok := strings.Cut(text, "\n.SH OPTIONS\n")
	if !ok {
		t.Fatal("no OPTIONS")
	}
	options, _, _ = strings.Cut(options, "\n.SH ")
	flags := map[string]bool{}
	walk(func(c *cobra.Command, fl *pflag.Flag) {
		flags[fl.Name] = true
		if !strings.Contains(options, `\fB--`+fl.Name) {
			t.Errorf("mkexec.8: OPTIONS does not name --%s of %s", fl.Name, c.Name())
		}
		if !strings.Contains(text, "\\fBmkexec "+c.Name()+"\\fR") || !strings.Contains(text, "\n.B "+c.Name()+"\n") {
			t.Errorf("mkexec.8: does not describe %s", c.Name())
		}
	})
	for _, line := range strings.Split(options, "\n") {
		for _, part := range strings.Split(line, `\fB--`)[1:] {
			name := strings.FieldsFunc(part, func(r rune) bool { return r != '-' && r < '0' || r > 'z' || r == '=' || r == '\\' })[0]
			if !flags[name] {
				t.Errorf("mkexec.8: there is no --%s", name)
			}
		}
	}
	if len(flags) < 15 {
		t.Errorf("only %d flags", len(flags))
	}
}

// TestManRequests: a line of text that begins with a dot is taken for a request
// and vanishes.
func TestManRequests(t *testing.T) {
	for _, name := range []string{"mkexec.8", "mkexec-policy.yaml.5", "mkexec-systemd.7"} {
		page, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(page)) {
			request, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			if strings.HasPrefix(line, ".") && !slices.Contains([]string{".TH", ".SH", ".TP", ".B", ".BR", ".PP", ".nf", ".fi"}, request) {
				t.Errorf("%s: %q: not a request", name, line)
			}
		}
	}
}

// TestPromisedFlags: scripts were promised these, on each of the three verbs.
func TestPromisedFlags(t *testing.T) {
	root := newRoot(&system{}, new(bytes.Buffer))
	for _, verb := range []string{"predict", "check", "boot"} {
		cmd, _, err := root.Find([]string{verb})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"json", "from", "bank", "profile", "cmdline", "append", "phase", "tpm2-device", "linux", "initrd"} {
			if cmd.Flags().Lookup(name) == nil {
				t.Errorf("%s has no --%s", verb, name)
			}
		}
	}
}

// TestReadme checks that what the README tells to type exists.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(readme, []byte("\n")); n > 200 {
		t.Errorf("README.md has %d lines", n)
	}
	root := newRoot(&system{}, new(bytes.Buffer))
	commands := 0
	for line := range strings.Lines(string(readme)) {
		words := strings.Fields(strings.TrimLeft(line, " $"))
		if len(words) < 2 || words[0] != "mkexec" && words[0] != "bin/mkexec" || !strings.HasPrefix(line, "    ") {
			continue
		}
		cmd, rest, err := root.Find(words[1:])
		if err != nil || cmd == root {
			t.Errorf("README.md: %q: %v", line, err)
			continue
		}
		for _, w := range rest {
			if name, ok := strings.CutPrefix(w, "--"); ok {
				name, _, _ = strings.Cut(name, "=")
				if cmd.Flags().Lookup(name) == nil {
					t.Errorf("README.md: %q: no --%s", line, name)
				}
			}
		}
		commands++
	}
	if commands < 5 {
		t.Errorf("only %d commands in README.md", commands)
	}
}
