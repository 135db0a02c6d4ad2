#!/usr/bin/env bash
# autocannon 9.0.0 with a rate (-R or -r): the median latency of a server that always takes 100 ms is 50 ms.
#
# With a rate, autocannon corrects latencies for requests that it should have sent while it waited, by default. That
# adds to each latency the values one interval below it, two below, and so on, down to the interval. Its interval is one
# second divided by the rate and rounded up, and goes as milliseconds into a histogram of milliseconds: so it is 1 ms
# for every rate there is. A latency of 100 ms becomes the hundred values from 1 to 100, whether anything was late or
# not.
#
# The correction is there so that latencies do not look better than they are. Here mean and median are half of the true
# ones, on every server and at every rate, and long answers count more: one of 10 s in a thousand of 10 ms is half of
# all values. A run without a rate, or with -C ("ignore coordinated omission"), has the true ones. So a closed loop
# looks twice as slow as an open one that is far from full. Requests per second are right.
#
# Seen (10 connections, 20 requests per second, 3 s, each answered after 100 ms; ms):
#   -R 20        60 requests, about 6200 latencies   p50 51   mean 52   p97.5 100
#   -R 20 -C     60 requests, 60 latencies           p50 102   mean 103   p97.5 117
# Fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-fund --no-audit --prefix "$work" autocannon@9.0.0
cat > rate.js <<'JS'
const { execFile } = require('child_process')
const http = require('http')
const { version } = require('autocannon/package.json')

const TOOK = 100 // ms
const RATE = 20 // requests per second, of 10 connections that could do 100
const server = http.createServer((request, response) => setTimeout(() => response.end('yes'), TOOK))

function measure (options) {
  const url = `http://127.0.0.1:${server.address().port}`
  const words = [require.resolve('autocannon'), '-c', '10', '-d', '3', '-R', String(RATE), '--json', ...options, url]
  return new Promise((resolve, reject) => execFile(process.execPath, words, (error, output) => {
    if (error) return reject(error)
    const { latency, requests, errors, non2xx } = JSON.parse(output)
    console.log(['-R', RATE, ...options].join(' ') + `: ${requests.total} requests, ${latency.totalCount} latencies,`,
      `p50 ${latency.p50}, mean ${latency.average}, p97.5 ${latency.p97_5}, lowest ${latency.min} ms`)
    if (errors || non2xx) return reject(new Error(`${errors} errors, ${non2xx} refused`))
    resolve({ ...latency, sent: requests.total })
  }))
}

server.listen(0, '127.0.0.1', async () => {
  console.log('autocannon', version)
  const corrected = await measure([])
  const measured = await measure(['-C'])
  server.close()
  const right = measured.totalCount === measured.sent && measured.p50 >= TOOK - 1 && measured.min >= TOOK - 1
  const halved = corrected.p50 < 0.7 * measured.p50 && corrected.totalCount > 50 * corrected.sent && corrected.min <= 1
  process.exitCode = right && halved ? 0 : 1
})
JS
node rate.js
