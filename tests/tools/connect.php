<?php
/*
 * A backend with settings of its own for each client's session, in the way of PHP 5.3: the answer to connect is the
 * hook itself, decoded and encoded again, with a restClientConfig in it; every other hook is refused.
 */

$hook = json_decode(file_get_contents('php://input'), true);
if (basename($_SERVER['REQUEST_URI']) !== 'connect') {
    header('Content-Length: 0', true, 403);
    exit;
}
$settings = array(
    'ConnectionStatusEvent' => array('restExclude' => 'sdp', 'restOnError' => 'LOG'),
    'OnCallEvent' => array('restOnError' => $hook['asks'], 'restPolicy' => 'OVERWRITE', 'restOverwrite' => 'callee'),
    'OnMessageEvent' => array(),
);
if ($hook['asks'] === 'nothing') {
    $settings = array();
}
$answer = json_encode(array('restClientConfig' => $settings) + $hook);
header('Content-Type: application/json');
header('Content-Length: ' . strlen($answer));
echo $answer;
