// etcd, for the control planes. A main package of its own, because the name of etcd's own is that of its
// module.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
