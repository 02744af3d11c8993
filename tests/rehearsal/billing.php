<?php
/*
 * The backend of the outage's rehearsal: it bills calls by their events, as one would have been written for PHP 5.3.
 * Each event is one line of JSON in a file, written under a lock. An event whose Idempotency-Key is in the file has been
 * billed before: it is noted as a repeat, and bills nothing. PHP 5.3 syntax throughout.
 */

define('BILLING', '@BILLING@');

error_reporting(E_ALL);
ini_set('display_errors', '0');

$body = file_get_contents('php://input');
$hook = json_decode($body, true);
if (!is_array($hook)) {
    header('Content-Length: 0', true, 400);
    exit;
}
$method = basename(parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));

if ($method === 'connect' || $method === 'OnCallEvent') {
    header('Content-Type: application/json');
    echo $body;
    exit;
}

$file = fopen(BILLING, 'a+');
if (!$file || !flock($file, LOCK_EX)) {
    header('Content-Length: 0', true, 500);
    exit;
}
$key = field('HTTP_IDEMPOTENCY_KEY');
rewind($file);
$line = json_encode(array(
    'time' => microtime(true),
    'method' => $method,
    'call' => $hook['callId'],
    'status' => $hook['status'],
    'key' => $key,
    'redelivery' => field('HTTP_X_GATEWAY_REDELIVERY'),
    'event_time' => field('HTTP_X_GATEWAY_EVENT_TIME'),
    'repeat' => $key !== null && strpos(stream_get_contents($file), json_encode($key)) !== false,
)) . "\n";
if (fwrite($file, $line) !== strlen($line) || !fflush($file)) {
    header('Content-Length: 0', true, 500);
    exit;
}
flock($file, LOCK_UN);
echo 'OK';

function field($name)
{
    return isset($_SERVER[$name]) ? $_SERVER[$name] : null;
}
