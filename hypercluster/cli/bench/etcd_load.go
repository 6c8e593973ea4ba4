// A closed-loop load for etcd: `clients` goroutines over `conns` connections to the leader, one request in flight
// each, after a warm-up. Prints one JSON object: operations per second and latency percentiles in milliseconds.
//
// Built against Debian's golang-etcd-server-dev (see etcd.py for the command).
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/clientv3"
)

type result struct {
	Operations float64 `json:"ops_s"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	Max        float64 `json:"max_ms"`
	Samples    int     `json:"samples"`
	Errors     int64   `json:"errors"`
	Leader     string  `json:"leader"`
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func dial(endpoint string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
	if err != nil {
		fail(err)
	}
	return client
}

func leaderOf(endpoints []string) string {
	probe := dial(endpoints[0])
	defer probe.Close()
	for _, endpoint := range endpoints {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		status, err := probe.Status(ctx, endpoint)
		cancel()
		if err == nil && status.Leader == status.Header.MemberId {
			return endpoint
		}
	}
	fail(fmt.Errorf("no etcd member says it leads"))
	return ""
}

func percentile(sorted []float64, fraction float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := int(float64(len(sorted)) * fraction)
	if at >= len(sorted) {
		at = len(sorted) - 1
	}
	return sorted[at]
}

func main() {
	endpoints := flag.String("endpoints", "", "comma-separated")
	clients := flag.Int("clients", 500, "requests in flight")
	conns := flag.Int("conns", 8, "connections")
	seconds := flag.Float64("seconds", 6, "measured time")
	warm := flag.Float64("warm", 2, "seconds before it")
	valueBytes := flag.Int("value-bytes", 256, "")
	keys := flag.Int("keys", 100000, "distinct keys")
	txn := flag.Int("txn", 1, "puts a transaction")
	flag.Parse()

	leader := leaderOf(strings.Split(*endpoints, ","))
	pool := make([]*clientv3.Client, *conns)
	for i := range pool {
		pool[i] = dial(leader)
	}
	values := make([]string, 1024)
	for i := range values {
		b := make([]byte, *valueBytes)
		rand.Read(b)
		values[i] = string(b)
	}
	begin := time.Now().Add(time.Duration(*warm * float64(time.Second)))
	end := begin.Add(time.Duration(*seconds * float64(time.Second)))
	latencies := make([][]float64, *clients)
	var failed int64
	var group sync.WaitGroup
	for c := 0; c < *clients; c++ {
		group.Add(1)
		go func(c int) {
			defer group.Done()
			r := rand.New(rand.NewSource(int64(c) + 1))
			client := pool[c%len(pool)]
			for {
				sent := time.Now()
				if sent.After(end) {
					return
				}
				var err error
				if *txn == 1 {
					_, err = client.Put(context.Background(), fmt.Sprintf("key%013d", r.Intn(*keys)), values[r.Intn(len(values))])
				} else {
					puts := make([]clientv3.Op, 0, *txn)
					first := r.Intn(*keys)
					for i := 0; i < *txn; i++ {
						// A stride keeps the keys of one transaction distinct, as etcd demands.
						key := fmt.Sprintf("key%013d", (first+i*7919)%*keys)
						puts = append(puts, clientv3.OpPut(key, values[r.Intn(len(values))]))
					}
					_, err = client.Txn(context.Background()).Then(puts...).Commit()
				}
				done := time.Now()
				if err != nil {
					atomic.AddInt64(&failed, 1)
					continue
				}
				if sent.After(begin) && done.Before(end) {
					latencies[c] = append(latencies[c], done.Sub(sent).Seconds()*1e3)
				}
			}
		}(c)
	}
	group.Wait()
	all := []float64{}
	for _, l := range latencies {
		all = append(all, l...)
	}
	sort.Float64s(all)
	json.NewEncoder(os.Stdout).Encode(result{
		Operations: float64(len(all)**txn) / *seconds,
		P50:        percentile(all, .5), P99: percentile(all, .99), Max: percentile(all, 1),
		Samples: len(all), Errors: failed, Leader: leader,
	})
}
