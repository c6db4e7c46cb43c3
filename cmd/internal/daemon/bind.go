package daemon

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// envPrefix begins the name of every environment variable of Clearway.
const envPrefix = "CLEARWAY_"

// EnvName is the environment variable of a flag: "tls-cert" is CLEARWAY_TLS_CERT.
func EnvName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Bind makes each flag that cmd defines an environment variable and a key of the file that --config names (YAML; the
// keys are the flags' names, lists and maps are allowed where the flag takes "a,b" or "k=v,..."). The first that is
// given wins: the flag, the environment variable (an empty one is not given), the file, the default. An unknown key of
// the file is an error; an unknown variable is not, since others name variables too.
//
// Flags of subcommands are not bound: what one call does is said in that call. Bind is called once, after the flags
// are defined and before the command is executed; the flags' variables hold the result when RunE is called.
func Bind(cmd *cobra.Command) {
	var file string
	cmd.PersistentFlags().StringVar(&file, configFlag, "",
		"YAML `FILE` whose keys are the names of these flags; each is also an environment variable: --tls-cert is "+
			EnvName("tls-cert"))
	next := cmd.PersistentPreRunE
	cmd.PersistentPreRunE = func(called *cobra.Command, args []string) error {
		if err := settle(boundFlags(cmd), file); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		return next(called, args)
	}
}

const configFlag = "config"

// boundFlags lists the flags that cmd itself defines, apart from those that only make sense on a command line.
func boundFlags(cmd *cobra.Command) *pflag.FlagSet {
	bound := pflag.NewFlagSet(cmd.Name(), pflag.ContinueOnError)
	add := func(flag *pflag.Flag) {
		switch flag.Name {
		case "help", "version", configFlag:
		default:
			bound.AddFlag(flag)
		}
	}
	cmd.LocalNonPersistentFlags().VisitAll(add)
	cmd.PersistentFlags().VisitAll(add)
	return bound
}

// settle gives each flag that the command line did not set its value from the environment or the file.
func settle(flags *pflag.FlagSet, file string) error {
	if file == "" {
		file = os.Getenv(EnvName(configFlag))
	}
	given, err := readConfig(file, flags)
	if err != nil {
		return err
	}
	values := viper.New()
	if err := values.MergeConfigMap(given.values); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	flags.VisitAll(func(flag *pflag.Flag) {
		if err == nil {
			err = settleOne(values, flag, given)
		}
	})
	return err
}

func settleOne(values *viper.Viper, flag *pflag.Flag, given configFile) error {
	if flag.Changed {
		return nil
	}
	env := EnvName(flag.Name)
	if err := values.BindEnv(flag.Name, env); err != nil {
		return err
	}
	if !values.IsSet(flag.Name) {
		return nil
	}
	value := values.GetString(flag.Name)
	if err := flag.Value.Set(value); err != nil {
		where := env
		if os.Getenv(env) == "" {
			where = given.where(flag.Name)
		}
		return fmt.Errorf("%s: invalid value %q for %q: %w", where, value, flag.Name, err)
	}
	flag.Changed = true // required flags are satisfied by any of the three
	return nil
}
