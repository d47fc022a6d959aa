package bls

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// The comparison of versions. It is not shown that distributions number their
// kernels in a way that it orders as they mean it.

// TestCompareVersions compares with systemd-analyze 262 (testdata/README.md).
func TestCompareVersions(t *testing.T) {
	t.Parallel()
	rows := readTable(t, "testdata/versions-262.tsv", 700)
	differ := 0
	for _, r := range rows {
		want, err := strconv.Atoi(r[1])
		if err != nil {
			t.Fatal(err)
		}
		if got := CompareVersions(r[0], r[2]); got != want {
			t.Errorf("%q %q: %d, want %d", r[0], r[2], got, want)
		}
		if CompareVersions(r[0]+"1", r[2]) != want {
			differ++
		}
	}
	if differ < len(rows)/10 {
		t.Errorf("one more digit made no difference but in %d of %d", differ, len(rows))
	}
}

// readTable reads rows of three columns.
func readTable(t testing.TB, name string, atLeast int) [][3]string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][3]string
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 3 {
			t.Fatalf("%s: %q", name, line)
		}
		rows = append(rows, [3]string(f))
	}
	if len(rows) < atLeast {
		t.Fatalf("%s: %d rows", name, len(rows))
	}
	return rows
}

// FuzzCompareVersions: the comparison is an order.
func FuzzCompareVersions(f *testing.F) {
	rows := readTable(f, "testdata/versions-262.tsv", 700)
	for i := 0; i+1 < len(rows); i += 9 {
		f.Add(rows[i][0], rows[i][2], rows[i+1][0])
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, bc, ac := CompareVersions(a, b), CompareVersions(b, c), CompareVersions(a, c)
		if CompareVersions(a, a) != 0 {
			t.Errorf("%q is not %q", a, a)
		}
		if ab != -CompareVersions(b, a) {
			t.Errorf("%q %q: not antisymmetric", a, b)
		}
		if ab <= 0 && bc <= 0 && (ac > 0 || ac == 0 && (ab < 0 || bc < 0)) {
			t.Errorf("%q %q %q: %d %d, but %d: not transitive", a, b, c, ab, bc, ac)
		}
	})
}
