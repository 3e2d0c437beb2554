// etcd, for the control plane of a kind cluster. A main package of its own, because the name of etcd's own is that of its
// module.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
