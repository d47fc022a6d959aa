package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
	"github.com/spf13/cobra"
)

func newDiff(sys *system, out *bytes.Buffer) *cobra.Command {
	d := differ{sys: sys}
	cmd := &cobra.Command{
		Use:   "diff [flags] A B | IMAGE --profile=A --profile=B | IMAGE --stub=A --stub=B",
		Short: "Say why two images end in different PCRs",
		Long: "Compare two images, event logs of firmware or of userspace (the last kexec), or predictions\n" +
			"(predict --json), whichever the files hold: which of PCRs 11, 12 and 13 differ, at which event they\n" +
			"part, and what differs there. With one image compare two of its profiles, or what two versions of\n" +
			"systemd-stub do with it. Exit status 0 is the same PCRs, 1 is different ones.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return withHint(fmt.Errorf("want A and B, or one IMAGE, not %d files", len(args)), cmd.CommandPath()+" --help")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := d.diff(args)
			if err != nil {
				return err
			}
			if d.json {
				err = printJSON(out, c)
			} else {
				err = c.print(out)
			}
			if err == nil && !c.Same {
				err = errNo
			}
			return err
		},
	}
	d.add(cmd)
	return cmd
}

// A differ is one run of mkexec diff.
type differ struct {
	imageFlags
	sys             *system
	profiles, stubs []string
	images          []*image // that are open
}

func (d *differ) add(cmd *cobra.Command) {
	d.cmd = cmd
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringArrayVar(&d.profiles, "profile", nil, "the profile of the images, by number or ID: `N|ID`; twice for one of A and one of B")
	fl.StringArrayVar(&d.stubs, "stub", nil, "go by the rules of systemd-stub `VERSION`; twice for one of A and one of B")
	fl.StringVar(&d.cmdline, "cmdline", "", "the kernel command line, `STR`, in place of the embedded one")
	fl.StringVar(&d.append, "append", "", "`STR` to put behind the command line")
	d.sidecarFlags.add(fl)
	d.machineFlags.add(fl)
	d.addVia()
	fl.StringArrayVar(&d.banks, "bank", nil, "a PCR `BANK`: sha1, sha256, sha384, sha512; may be given more than once")
	fl.BoolVar(&d.json, "json", false, "print JSON")
}

// diff opens what the arguments name and compares it.
func (d *differ) diff(args []string) (*comparison, error) {
	defer func() {
		for _, m := range d.images {
			m.close()
		}
	}()
	base, err := d.base(d.sys)
	if err != nil {
		return nil, err
	}
	if len(d.profiles) > 2 || len(d.stubs) > 2 {
		return nil, withHint(errors.New("--profile and --stub: twice at most, for A and for B"), d.usage())
	}
	if len(args) == 1 {
		if len(d.profiles) < 2 && len(d.stubs) < 2 {
			return nil, withHint(errors.New("one file: nothing to compare with, unless --profile or --stub is given twice"), d.usage())
		}
		args = []string{args[0], args[0]}
	}
	var opened [2]*openedFile
	for i, path := range args {
		if opened[i], err = openAny(path); err != nil {
			return nil, err
		}
	}
	if err := d.checkFlags(opened); err != nil {
		return nil, err
	}
	bothLogs := opened[0].kind == sideLog && opened[1].kind == sideLog
	var sides [2]*side
	for i, o := range opened {
		switch o.kind {
		case sideImage:
			sides[i], err = d.imageSide(o.path, i, base)
		case sidePrediction:
			sides[i], err = predictionSide(o.path, o.data, base.Banks())
			err = inFile(o.path, err)
		case sideKexec:
			sides[i], err = kexecSide(o.path, o.data, base.Banks())
			err = inFile(o.path, err)
		default:
			sides[i], err = logSide(o.path, o.data, base.Banks(), bothLogs)
			err = inFile(o.path, err)
		}
		if err != nil {
			return nil, err
		}
	}
	return compare(sides[0], sides[1], base.Banks())
}

// checkFlags refuses flags for images where there is none for them.
func (d *differ) checkFlags(opened [2]*openedFile) error {
	images := 0
	for _, o := range opened {
		if o.kind == sideImage {
			images++
		}
	}
	for name, values := range map[string][]string{"profile": d.profiles, "stub": d.stubs} {
		if len(values) > images {
			return withHint(fmt.Errorf("--%s: values: %d, images: %d", name, len(values), images), d.usage())
		}
	}
	return nil
}

// imageSide predicts side i of the images.
func (d *differ) imageSide(path string, i int, base measure.PCRs) (*side, error) {
	f := d.imageFlags
	f.profile, f.stub = nth(d.profiles, i), nth(d.stubs, i)
	m, err := f.open(d.sys, []string{path})
	if err != nil {
		return nil, err
	}
	d.images = append(d.images, m)
	boot, err := m.load()
	if err != nil {
		return nil, err
	}
	var total int64
	for _, c := range boot.Measurements {
		total += c.Content.Size()
	}
	bar := startProgress(d.sys.stderr, "hashing", total)
	defer bar.finish()
	p, err := measure.Predict(&boot.Image, measure.Options{Base: base, Progress: bar.add})
	if err != nil {
		return nil, inFile(path, err)
	}
	return imageSide(path, boot, p)
}

// nth returns the value for side i: its own of two, the only one, or "".
func nth(values []string, i int) string {
	if len(values) == 0 {
		return ""
	}
	return values[min(i, len(values)-1)]
}

// An openedFile is a file and what it holds.
type openedFile struct {
	path string
	kind string
	data []byte // nil for images
}

// openAny tells what a file holds by its first bytes, and reads it if it is no
// image. The kernel's files have no size, so it reads up to the end.
func openAny(path string) (*openedFile, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	begin := make([]byte, 2)
	n, err := io.ReadFull(f, begin)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return nil, err
	}
	begin = begin[:n]
	o := &openedFile{path: path, kind: sideLog}
	limit := int64(eventlog.MaxFirmware)
	switch {
	case string(begin) == "MZ":
		o.kind = sideImage
		return o, nil
	case n > 0 && begin[0] == recordSeparator:
		o.kind, limit = sideKexec, eventlog.MaxUserspace
	case n > 0 && strings.Contains("{ \t\r\n", string(begin[:1])):
		o.kind, limit = sidePrediction, maxPredictionJSON
	}
	if o.data, err = io.ReadAll(io.MultiReader(bytes.NewReader(begin), io.LimitReader(f, limit+1))); err != nil {
		return nil, inFile(path, err)
	}
	if int64(len(o.data)) > limit {
		return nil, fmt.Errorf("%s: %s of more than %d bytes", path, o.kind, limit)
	}
	return o, nil
}
