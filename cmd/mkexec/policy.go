package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/mkexec/mkexec/policy"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// defaultPolicy is where the policy of a machine is.
const defaultPolicy = "/etc/mkexec/policy.yaml"

// readPolicy reads and parses a policy file.
func readPolicy(path string) (*policy.File, error) {
	f, err := openRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(fmt.Errorf("policy: %w", err), "to write one: mkexec policy init IMAGE")
	}
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, policy.MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	parsed, err := policy.Parse(data)
	return parsed, inFile(path, err)
}

func newPolicy(sys *system, out *bytes.Buffer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Write, check and show policy files",
		Long: "Write, check and show policy files, which say what the PCRs may become, which secrets have to\n" +
			"stay within reach, and which images may be started. mkexec-policy.yaml(5) describes them.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return withHint(errors.New("policy: to do what with it?"), "mkexec policy --help")
		},
	}
	cmd.AddCommand(newPolicyInit(sys, out), newPolicyLint(out), newPolicyShow(out))
	return cmd
}

func newPolicyShow(out *bytes.Buffer) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show [flags] [FILE]",
		Short: "Show a policy file as it is taken",
		Long: "Show a policy file as it is taken: every requirement with its name, every value in a list.\n" +
			"The output is itself a policy file. FILE is " + defaultPolicy + " if it is not named.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := readPolicy(append(args, defaultPolicy)[0])
			switch {
			case err != nil:
				return err
			case asJSON:
				return printJSON(out, f)
			}
			enc := yaml.NewEncoder(out)
			enc.SetIndent(2)
			return enc.Encode(f)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
