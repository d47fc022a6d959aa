package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestCopyright holds the copyright file against the modules that are linked into the program: each is there, and no other;
// and who its licence files name, of the packages that are linked, is named. It does not prove that a licence has the right
// name or text.
func TestCopyright(t *testing.T) {
	content, err := os.ReadFile("copyright")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	named := map[string]string{} // by path: the holders
	for stanza := range strings.SplitSeq(string(content), "\n\n") {
		path, ok := strings.CutPrefix(strings.SplitN(stanza, "\n", 2)[0], "Files: ")
		if !ok {
			continue
		}
		path = strings.TrimSuffix(path, "/*")
		files = append(files, path)
		named[path] = stanza
	}
	rest := slices.Clone(files)
	drop := func(path string) { rest = slices.DeleteFunc(rest, func(f string) bool { return f == path }) }
	drop("*")
	drop("go")
	holder := regexp.MustCompile(`(?m)^Copyright (?:\(c\) )?[0-9-]+,? +(.*?)\.?(?: All rights reserved\.)?$`)
	for line := range strings.Lines(output(t, "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Dir}} {{$.ImportPath}} {{$.Dir}}{{end}}", top+"/cmd/mkexec")) {
		field := strings.Fields(line)
		if len(field) == 0 || field[0] == "github.com/mkexec/mkexec" {
			continue
		}
		module, root, pkg, dir := field[0], field[1], field[2], field[3]
		if !slices.Contains(files, module) {
			t.Errorf("copyright: no Files: %s/*", module)
		}
		drop(module)
		// The licence of a package is in its directory or in one further up.
		for ; ; dir, pkg = filepath.Dir(dir), filepath.Dir(pkg) {
			licences, err := filepath.Glob(dir + "/LICEN[CS]E*")
			if err != nil {
				t.Fatal(err)
			}
			if len(licences) > 0 {
				break
			}
			if dir == root {
				t.Fatalf("%s: no licence", pkg)
			}
		}
		stanzas := ""
		for _, f := range files {
			if pkg == f || strings.HasPrefix(pkg, f+"/") {
				stanzas += named[f]
				drop(f)
			}
		}
		licences, _ := filepath.Glob(dir + "/LICEN[CS]E*")
		for _, licence := range licences {
			text, err := os.ReadFile(licence)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(text), "\n\n---") // klauspost/compress goes on with packages that have their own
			for _, m := range holder.FindAllStringSubmatch(first, -1) {
				if !strings.Contains(stanzas, m[1]) {
					t.Errorf("copyright: %s names %q, Files: %s/* does not", licence, m[1], pkg)
				}
			}
		}
	}
	if len(rest) > 0 {
		t.Errorf("copyright: not in the program: %v", rest)
	}
}
