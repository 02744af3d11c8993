<?php
/*
 * The old backend of the rehearsal, as one would have been written for PHP 5.3: it decides by lists in the script,
 * sets no restOnError=FAIL, and prints a notice (since PHP 8: a warning) for a number that its directory lacks.
 * PHP 5.3 syntax throughout.
 */

error_reporting(E_ALL);
ini_set('display_errors', '1');
ini_set('html_errors', '1');

$blocked = array('+447700900103', '+447700900117', '+447700900142', '+447700900166', '+447700900191');
$directory = array('+12025550100' => 'sales', '+12025550101' => 'support');

$hook = json_decode(file_get_contents('php://input'), true);
if (!is_array($hook)) {
    header('Content-Length: 0', true, 400);
    exit;
}
$method = basename(parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));

if ($method === 'OnCallEvent') {
    $caller = $hook['caller'];
    $callee = $hook['callee'];
    if (in_array($caller, $blocked, true) || begins($callee, '+449098790') || begins($callee, '+4416329604')) {
        header('Content-Length: 0', true, 403);
        exit;
    }
    if (begins($callee, '+120255501')) {
        $department = $directory[$callee];
    }
}
if ($method === 'connect') {
    $notify = array('restExclude' => '', 'restOnError' => 'LOG', 'restPolicy' => 'NOTIFY', 'restOverwrite' => '');
    $hook['restClientConfig'] = array(
        'ConnectionStatusEvent' => $notify,
        'OnCallEvent' => $notify,
        'CallStatusEvent' => $notify,
    );
}
$hook['answeredBy'] = 'php';
header('Content-Type: application/json');
echo json_encode($hook);

function begins($text, $with)
{
    return strncmp($text, $with, strlen($with)) === 0;
}
