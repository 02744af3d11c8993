<?php
/*
 * A backend that prints what PHP prints before, in and after its answer, for the tests of answers repaired: the hook's
 * "steps" say what, in order. Front controller for a web server; on the command line it reads the hook from standard
 * input. PHP 5.3 syntax throughout.
 */

/* 2048 is E_STRICT, which E_ALL lacked before PHP 5.4. */
error_reporting(E_ALL | 2048);
$body = file_get_contents(PHP_SAPI === 'cli' ? 'php://stdin' : 'php://input');
$hook = json_decode($body, true);
if (PHP_SAPI !== 'cli') {
    ini_set('display_errors', '1');
    ini_set('html_errors', empty($hook['html']) ? '0' : '1');
    header('Content-Type: application/json');
}
foreach ($hook['steps'] as $step) {
    play($step, $hook, $body);
}

function play($step, $hook, $body)
{
    $callee = isset($hook['callee']) ? $hook['callee'] : '';
    switch ($step) {
        case 'own':
            echo $body;
            break;
        case 'bom':
            echo "\xEF\xBB\xBF";
            break;
        case 'line':
            echo "\n";
            break;
        case 'key':
            $numbers = array();
            $number = $numbers[$callee];
            break;
        case 'variable':
            echo $nowhere_to_be_found;
            break;
        case 'file':
            fopen('/nowhere/' . str_replace("\0", '', $callee), 'r');
            break;
        case 'deprecated':
            trigger_error('Function ereg() is deprecated', E_USER_DEPRECATED);
            break;
        case 'notice':
            trigger_error('No route to ' . $callee, E_USER_NOTICE);
            break;
        case 'bare':
            trigger_error($callee, E_USER_NOTICE);
            break;
        case 'hook':
            trigger_error($callee . "\n" . $body . "\n" . $callee, E_USER_WARNING);
            break;
        case 'decoded':
            trigger_error(urldecode($callee) . "\n" . $body . "\n" . urldecode($hook['caller']), E_USER_WARNING);
            break;
        case 'eval':
            eval('$a = array(); $b = $a["none"];');
            break;
        case 'fatal':
            function_that_is_nowhere($callee);
            break;
        case 'throw':
            throw new Exception($callee);
        case 'exit':
            exit;
    }
}
