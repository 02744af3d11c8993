<?php
/*
 * A backend that writes down what it is told of events: one line of JSON each, in the file that HOOK_LOG names.
 * PHP 5.3 syntax throughout.
 */
$body = file_get_contents('php://input');
$line = array('hook' => json_decode($body, true), 'bytes' => md5($body));
foreach (array('IDEMPOTENCY_KEY', 'X_GATEWAY_REDELIVERY', 'X_GATEWAY_EVENT_TIME', 'AUTHORIZATION') as $name) {
    $line[strtolower($name)] = isset($_SERVER['HTTP_' . $name]) ? $_SERVER['HTTP_' . $name] : null;
}
file_put_contents(getenv('HOOK_LOG'), json_encode($line) . "\n", FILE_APPEND | LOCK_EX);
header('Content-Type: application/json');
echo $body;
